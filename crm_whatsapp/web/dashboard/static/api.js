// The calls to the API, and the server's clock.

const csrfToken = document.querySelector('meta[name="csrf-token"]')?.content ?? "";
let skewMs = 0;

// How a call shows who makes it: by the dashboard's cookie, unless a page says otherwise.
let proof = {
  credentials: "same-origin",
  headers: (method) => (method === "POST" ? { "X-CSRF-Token": csrfToken } : {}),
  /** What was shown is not taken. True: there is something newer to show. */
  renew: () => {
    const next = encodeURIComponent(window.location.pathname);
    window.location.assign(`/dashboard/login?next=${next}`);
    return false;
  },
};

/** Show something else than the cookie; the same three members, functions may be async. */
export function proveBy(another) {
  proof = another;
}

export class ApiError extends Error {
  constructor(code, message, { field, retryAfterMs = 0 } = {}) {
    super(message);
    this.code = code;
    this.field = field;
    this.retryAfterMs = retryAfterMs;
  }
}

/** The server's time now, in ms, so that countdowns are right on a computer with a wrong clock. */
export function serverNow() {
  return Date.now() + skewMs;
}

async function call(path, options = {}) {
  const shown = await proof.headers(options.method ?? "GET");
  let response = await send(path, options, shown);
  if (response.status === 401 && (await proof.renew(shown))) {
    response = await send(path, options, await proof.headers(options.method ?? "GET"));
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function send(path, options, shown) {
  let response;
  try {
    response = await fetch(`/api/whatsapp${path}`, {
      credentials: proof.credentials,
      ...options,
      headers: { ...options.headers, ...shown },
    });
  } catch {
    throw new ApiError("unreachable", "The server cannot be reached. Trying again…");
  }
  const date = Date.parse(response.headers.get("Date") ?? "");
  if (Math.abs(date + 500 - serverNow()) > 1500) skewMs = date + 500 - Date.now();
  return response;
}

async function errorOf(response) {
  const error = (await response.json().catch(() => null))?.error ?? {};
  const seconds = Number(response.headers.get("Retry-After") ?? 0);
  return new ApiError(
    error.code ?? `http-${response.status}`,
    error.message ?? "The server could not do this.",
    { field: error.field, retryAfterMs: Number.isFinite(seconds) ? seconds * 1000 : 0 },
  );
}

export async function get(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  return (await call(query ? `${path}?${query}` : path)).json();
}

export async function getBlob(path, parameters) {
  return (await call(`${path}?${new URLSearchParams(parameters)}`)).blob();
}

/** Open the event stream; go on after the last event, if there was one. */
export async function openStream(parameters, lastId, signal) {
  const headers = lastId ? { "Last-Event-ID": lastId } : {};
  const query = new URLSearchParams(parameters);
  return (await call(`/events?${query}`, { headers, signal, cache: "no-store" })).body;
}

export async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return (await call(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}
