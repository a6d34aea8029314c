// The list of companies.

import { get, serverNow } from "./api.js";
import { Live } from "./live.js";
import { FAST_MS, LIVE_MS, Poller, SLOW_MS } from "./poller.js";
import { recentCompanies, remember } from "./recent.js";
import { ago, badge, headline, isPassing, moment, phone } from "./words.js";

const MOST_OTHERS = 12;
const FILTER_FROM = 8;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const ORDER = ["failed", "banned", "logged_out", "awaiting_scan", "connecting", "disconnected", "connected"];

const byId = (id) => document.getElementById(id);
const rows = new Map();

function makeRow(companyId) {
  const item = document.createElement("li");
  const link = document.createElement("a");
  link.href = `/dashboard/companies/${companyId}`;
  for (const name of ["badge", "who", "phone", "when", "todo"]) {
    const part = document.createElement("span");
    part.className = name;
    link.append(part);
  }
  const who = link.querySelector(".who");
  const id = document.createElement("span");
  id.className = "id";
  id.textContent = companyId;
  who.append(document.createElement("strong"), id);
  item.append(link);
  return item;
}

function fillRow(item, status) {
  badge(item.querySelector(".badge"), status.status);
  item.querySelector("strong").textContent = status.push_name ?? "Company";
  item.querySelector(".phone").textContent = status.phone_number ? phone(status.phone_number) : "";
  const when = item.querySelector(".when");
  const what = status.is_connected ? "Connected" : "Last connected";
  when.textContent = status.last_connected_at
    ? `${what} ${ago(status.last_connected_at, serverNow())}`
    : "";
  when.title = status.last_connected_at ? moment(status.last_connected_at) : "";
  item.querySelector(".todo").textContent = status.is_connected ? "" : headline(status);
}

function show(statuses) {
  const list = byId("companies");
  const wanted = byId("filter").value.trim().toLowerCase();
  const sorted = [...statuses].sort(
    (a, b) =>
      ORDER.indexOf(a.status) - ORDER.indexOf(b.status) ||
      (a.push_name ?? "").localeCompare(b.push_name ?? "") ||
      a.company_id.localeCompare(b.company_id),
  );
  const gone = new Set(rows.keys());
  sorted.forEach((status, index) => {
    gone.delete(status.company_id);
    const item = rows.get(status.company_id) ?? makeRow(status.company_id);
    rows.set(status.company_id, item);
    fillRow(item, status);
    const text = [status.push_name, status.phone_number, status.company_id].join(" ").toLowerCase();
    item.hidden = !text.includes(wanted);
    if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null);
  });
  for (const id of gone) {
    rows.get(id).remove();
    rows.delete(id);
  }
  const connected = statuses.filter((status) => status.is_connected).length;
  const total = statuses.length;
  byId("summary").textContent = total ? `${connected} of ${total} connected` : "";
  byId("empty").hidden = total > 0;
  byId("filter-field").hidden = total < FILTER_FROM;
}

/** Return the status, or what was heard of the company since the look began. */
function newest(status, since) {
  const told = changes.get(status.company_id);
  return told?.order > since ? { ...status, ...told.status } : status;
}

async function look() {
  const since = changesHeard;
  try {
    const { sessions } = await get("/active-sessions");
    const known = new Set(sessions.map((session) => session.company_id));
    const others = recentCompanies().filter((id) => !known.has(id)).slice(0, MOST_OTHERS);
    const extra = await Promise.all(others.map((id) => get("/status", { company_id: id })));
    statuses = [...sessions, ...extra].map((status) => newest(status, since));
    changes.clear();
    show(statuses);
    byId("notice").hidden = true;
    if (live?.isLive) return LIVE_MS;
    return statuses.some(isPassing) ? FAST_MS : SLOW_MS;
  } catch (error) {
    byId("notice").textContent = error.message;
    byId("notice").hidden = false;
    return FAST_MS * 2;
  }
}

function hear(name, data) {
  if (name === "snapshot" && data.resync) poller.now();
  if (name !== "status") return;
  changesHeard += 1;
  changes.set(data.company_id, { order: changesHeard, status: data });
  const index = statuses.findIndex((status) => status.company_id === data.company_id);
  if (index >= 0) {
    statuses[index] = { ...statuses[index], ...data };
    showSoon();
  }
  // Whether it belongs into the list is for the list to say; a snapshot names every company.
  if (data.event && (index < 0 || data.event === "forgotten")) poller.now();
}

/** Show once before the next picture, however much is heard until then. */
function showSoon() {
  if (isShowDue) return;
  isShowDue = true;
  requestAnimationFrame(() => {
    isShowDue = false;
    show(statuses);
  });
}

const poller = new Poller(look);
const changes = new Map();
let changesHeard = 0;
let isShowDue = false;
let live = null;
let statuses = [];
byId("filter").addEventListener("input", () => show(statuses));
byId("open-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = byId("open-id");
  const id = field.value.trim().toLowerCase();
  const valid = UUID.test(id);
  field.setAttribute("aria-invalid", String(!valid));
  byId("open-error").textContent = valid
    ? ""
    : "A company id has 36 characters, such as 3b1bee0c-cbee-4de1-88f1-d6e890f4c995.";
  if (!valid) {
    field.focus();
    return;
  }
  remember(id);
  window.location.assign(`/dashboard/companies/${id}`);
});
poller.now();
live = new Live(
  {},
  {
    heard: hear,
    changed: (isLive) => {
      byId("live").hidden = !isLive;
      if (isLive) poller.wait(LIVE_MS);
      else if (document.visibilityState === "visible") poller.now();
    },
  },
);
