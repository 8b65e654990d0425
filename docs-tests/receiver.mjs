// A receiver that computes the HMAC of Convex's header itself, as docs/DESTINATIONS.md shows, with
// the secret in SECRET. It prints its port, and a line for each event that it accepted: id, time and
// body. Batches of CloudEvents are read by the official SDK, which is in MODULES.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";

const verifies = (headers, body) => {
  const secret = process.env.SECRET;
  const expected = "sha256=" + createHmac("sha256", secret).update(body).digest("hex");
  const sent = String(headers["x-webhook-signature"] ?? "");
  return sent.length === expected.length
    && timingSafeEqual(Buffer.from(sent), Buffer.from(expected));
};

const eventsOf = (headers, body) => {
  if (headers["content-type"].startsWith("application/cloudevents-batch")) {
    const { HTTP } = createRequire(process.env.MODULES + "/")("cloudevents");
    return HTTP.toEvent({ headers, body }).map((event) => {
      event.validate();
      return [event.id, event.time, event.data];
    });
  }
  return JSON.parse(body).map(({ topic, record, timestamp, body }) => {
    if (topic !== "custom_audit") throw new Error(`unknown topic ${topic}`);
    const id = `${record.stream}-${String(record.sequence).padStart(12, "0")}`;
    return [id, new Date(timestamp).toISOString(), body];
  });
};

const server = createServer((request, answer) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const body = Buffer.concat(parts);
    const holds = verifies(request.headers, body);
    if (holds) {
      for (const event of eventsOf(request.headers, body.toString())) {
        console.log(JSON.stringify(event));
      }
    }
    answer.writeHead(holds ? 200 : 401).end();
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
