// Fan-out with the `ws` package: what is posted to /publish goes as text to every WebSocket client.
// Usage: node ws.js PORT
const http = require("node:http");
const { WebSocketServer } = require("ws");

const server = http.createServer((request, response) => {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => {
    const body = Buffer.concat(pieces);
    for (const client of sockets.clients) client.send(body, { binary: false });
    response.end("ok");
  });
});
const sockets = new WebSocketServer({ server, perMessageDeflate: false });

// A publisher that pauses keeps its connection.
server.keepAliveTimeout = 0;
server.listen(Number(process.argv[2]), "127.0.0.1");
