"""Convex's client for Python, unmodified. Run by ../../../with-npm, on the functions in functions/recorder/test/convex."""

import sys

from convex import ConvexClient, ConvexError

client = ConvexClient(sys.argv[1])
before = client.query("notes:list")
assert isinstance(client.mutation("notes:add", {"text": "by Python"}), str)
followed = client.subscribe("notes:list")
assert next(followed) == [*before, "by Python"]
client.mutation("notes:add", {"text": "and again"})
assert next(followed) == [*before, "by Python", "and again"]
try:
    client.mutation("notes:add", {"text": ""})
    raise AssertionError("an empty note was added")
except ConvexError as error:
    assert error.data == {"code": "EMPTY"}, error.data
assert client.action("notes:act")[-1] == "by an action"
