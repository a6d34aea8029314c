// The front door of the local stack: what Supabase's gateway does for /rest/v1, and no more.
//
//   node gateway.mjs CONFIG.json
//
// CONFIG.json: {"port", "upstream_port", "keys": {"<api key>": "<JWT sent upstream for it>"}}
//
// A request needs an `apikey` header with a known key. Its Authorization header is passed on when
// it carries a user's token; when it is absent, or repeats a key that is not a JWT, the JWT that
// belongs to the key takes its place. Bodies are streamed in both directions.

import { readFileSync } from "node:fs";
import http from "node:http";

const PREFIX = "/rest/v1";
const CLIENT_IDLE_MS = 75_000;
// PostgREST closes idle connections after 30 s; letting go first avoids a race on reuse.
const UPSTREAM_IDLE_MS = 20_000;
const HOP_BY_HOP = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

const config = JSON.parse(readFileSync(process.argv[2], "utf8"));
const keys = new Map(Object.entries(config.keys));
const agent = new http.Agent({ keepAlive: true, timeout: UPSTREAM_IDLE_MS });

function refuse(response, status, message, hint) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify({ message, hint }));
}

function authorization(request, key) {
  const given = request.headers.authorization;
  const token = given?.replace(/^Bearer\s+/i, "");
  return given === undefined || keys.has(token) || token.startsWith("sb_")
    ? `Bearer ${keys.get(keys.has(token) ? token : key)}`
    : given;
}

function forward(request, response, path, key) {
  const headers = { ...request.headers, authorization: authorization(request, key) };
  delete headers.apikey;
  delete headers.connection;
  const upstream = http.request(
    { host: "127.0.0.1", port: config.upstream_port, method: request.method, path, headers, agent },
    (answer) => {
      const passed = { ...answer.headers };
      for (const name of HOP_BY_HOP) delete passed[name];
      response.writeHead(answer.statusCode, passed);
      answer.pipe(response);
      answer.on("error", () => response.destroy());
    },
  );
  upstream.on("error", (error) => {
    if (response.headersSent) response.destroy();
    else refuse(response, 502, "The database API cannot be reached", error.code);
  });
  response.on("close", () => upstream.destroy());
  request.pipe(upstream);
}

const server = http.createServer((request, response) => {
  const { pathname, search } = new URL(request.url, "http://gateway.local");
  if (pathname !== PREFIX && !pathname.startsWith(`${PREFIX}/`)) {
    return refuse(response, 404, "no Route matched with those values", "Only /rest/v1 exists here");
  }
  const key = request.headers.apikey;
  if (key === undefined) {
    return refuse(response, 401, "No API key found in request", "Send it in the apikey header");
  }
  if (!keys.has(key)) {
    return refuse(response, 401, "Invalid API key", "It belongs to another project or stack");
  }
  if (key.startsWith("sb_secret_") && /^Mozilla\//.test(request.headers["user-agent"] ?? "")) {
    return refuse(response, 401, "Forbidden use of secret API key in browser", "Use it on a server");
  }
  return forward(request, response, (pathname.slice(PREFIX.length) || "/") + search, key);
});

server.keepAliveTimeout = CLIENT_IDLE_MS;
server.requestTimeout = 0;
server.on("error", (error) => {
  console.error(`gateway: ${error.message}`);
  process.exit(1);
});
server.listen(config.port, "127.0.0.1");

for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => process.exit(0));
