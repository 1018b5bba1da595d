// Fan-out with Bun's own topics: what is posted to /publish goes as text to every WebSocket client.
// Usage: bun bun.js PORT
const topic = "bench";

Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.argv[2]),
  async fetch(request, server) {
    if (request.method === "POST") {
      server.publish(topic, await request.text());
      return new Response("ok");
    }
    if (server.upgrade(request)) return;
    return new Response("WebSocket only", { status: 426 });
  },
  websocket: {
    idleTimeout: 0,
    sendPings: false,
    perMessageDeflate: false,
    open: (socket) => socket.subscribe(topic),
    message() {},
  },
});
