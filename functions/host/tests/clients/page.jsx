// A page with Convex's React client. Run by ../../../with-npm, on the functions in functions/recorder/test/convex.
import { ConvexProvider, ConvexReactClient, useMutation, usePaginatedQuery, useQuery } from "convex/react";
import { anyApi as api } from "convex/server";
import { useState } from "react";
import { createRoot } from "react-dom/client";

function Notes() {
  const texts = useQuery(api.notes.list, {});
  const { results, status, loadMore } = usePaginatedQuery(api.notes.page, {}, { initialNumItems: 5 });
  const add = useMutation(api.notes.add).withOptimisticUpdate((store, { text }) => {
    const known = store.getQuery(api.notes.list, {});
    if (known !== undefined) store.setQuery(api.notes.list, {}, [...known, `${text} (sending)`]);
  });
  const [text, setText] = useState("");
  const [failure, setFailure] = useState("");
  const send = () => add({ text }).then(() => setFailure(""), (error) => setFailure(error.data?.code ?? error.message));
  return (
    <>
      <input value={text} onChange={(event) => setText(event.target.value)} />
      <button id="add" onClick={send}>Add</button>
      <button id="more" onClick={() => loadMore(5)}>More</button>
      <p id="failure">{failure}</p>
      <p id="status">{status}</p>
      <ul id="list">{texts?.map((text, i) => <li key={i}>{text}</li>)}</ul>
      <ol id="pages">{results.map(({ _id, text }) => <li key={_id}>{text}</li>)}</ol>
    </>
  );
}

const client = new ConvexReactClient(new URLSearchParams(location.search).get("host"));
createRoot(document.getElementById("root")).render(<ConvexProvider client={client}><Notes /></ConvexProvider>);
