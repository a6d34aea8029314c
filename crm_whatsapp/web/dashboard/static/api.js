// The calls to the API, and the server's clock.

const csrfToken = document.querySelector('meta[name="csrf-token"]')?.content ?? "";
let skewMs = 0;

export class ApiError extends Error {
  constructor(code, message, field) {
    super(message);
    this.code = code;
    this.field = field;
  }
}

/** The server's time now, in ms, so that countdowns are right on a computer with a wrong clock. */
export function serverNow() {
  return Date.now() + skewMs;
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(`/api/whatsapp${path}`, { credentials: "same-origin", ...options });
  } catch {
    throw new ApiError("unreachable", "The server cannot be reached. Trying again…");
  }
  const date = Date.parse(response.headers.get("Date") ?? "");
  if (Math.abs(date + 500 - serverNow()) > 1500) skewMs = date + 500 - Date.now();
  if (response.status === 401) {
    const next = encodeURIComponent(window.location.pathname);
    window.location.assign(`/dashboard/login?next=${next}`);
  }
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    const error = body?.error ?? {};
    throw new ApiError(
      error.code ?? `http-${response.status}`,
      error.message ?? "The server could not do this.",
      error.field,
    );
  }
  return response;
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
  const headers = { "Content-Type": "application/json", "X-CSRF-Token": csrfToken };
  return (await call(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}
