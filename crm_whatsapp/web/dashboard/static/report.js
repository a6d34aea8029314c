// The status report: how the sessions are, and how they have been.

import { get, serverNow } from "./api.js";
import { Poller } from "./poller.js";
import { ago, badge, headline, moment } from "./words.js";

const EVERY_MS = 15000;
const AGAIN_MS = 5000;
const MOST_PROBLEMS = 100;
const WINDOWS = { 1: "the last hour", 24: "the last 24 hours", 168: "the last 7 days", 720: "the last 30 days" };
const ACTIONS = {
  none: "Continues by itself",
  wait: "Continues by itself",
  connect: "Somebody of the company has to link the phone again",
  scan: "Waits for the phone",
  retry: "Open the company and press Reconnect",
  upgrade: "Needs a newer release of this software",
  "contact-support": "Needs you: look the reason up in the runbook",
};

const ORDER = ["connected", "connecting", "awaiting_scan", "disconnected", "logged_out", "banned", "failed"];

const byId = (id) => document.getElementById(id);

function set(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

/** A percentage that is never rounded up: 100 % means all of it. */
function percent(value) {
  const cut = Math.floor(value * 100 + 1e-6) / 100;
  return `${cut.toLocaleString(undefined, { maximumFractionDigits: 2 })}\u00a0%`;
}

function seconds(value) {
  if (value < 10) return `${value.toLocaleString(undefined, { maximumFractionDigits: 1 })}\u00a0s`;
  if (value < 90) return `${Math.round(value)}\u00a0s`;
  if (value < 90 * 60) return `${Math.round(value / 60)}\u00a0min`;
  if (value < 48 * 3600) return `${Math.round(value / 3600)}\u00a0h`;
  return `${Math.round(value / 86400)}\u00a0days`;
}

function count(number, one, many) {
  return `${number.toLocaleString()} ${number === 1 ? one : many}`;
}

function part(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function showNow({ sessions }) {
  const connected = sessions.by_status.connected;
  set("connected", `${connected.toLocaleString()} of ${sessions.should_run.toLocaleString()} connected`);
  const present = ORDER.map((status) => [status, sessions.by_status[status]]).filter(([, number]) => number > 0);
  byId("spread").replaceChildren(
    ...present.map(([status, number]) => {
      const bar = part("span", "share");
      bar.dataset.status = status;
      bar.style.flexGrow = String(number);
      return bar;
    }),
  );
  byId("legend").replaceChildren(
    ...present.map(([status, number]) => {
      const item = part("li", "");
      const name = part("span", "badge");
      badge(name, status);
      item.append(name, part("span", "number", number.toLocaleString()));
      return item;
    }),
  );
}

function showUptime({ uptime }, when) {
  if (uptime === null) return unknown("uptime");
  if (uptime.average_percent === null) {
    set("uptime", "–");
    set("uptime-note", `No session was to run in ${when}.`);
    return;
  }
  set("uptime", percent(uptime.average_percent));
  set("uptime-note", `Average of ${count(uptime.companies, "session", "sessions")} over ${when}.`);
}

function showRestores({ restores }, when) {
  if (restores === null) return unknown("restores");
  if (restores.attempted === 0) {
    set("restores", "–");
    set("restores-note", `No session had to be restored in ${when}.`);
    return;
  }
  set("restores", percent(restores.success_rate * 100));
  const times = restores.p50_seconds === null
    ? ""
    : ` Half took up to ${seconds(restores.p50_seconds)}, 95\u00a0% up to ${seconds(restores.p95_seconds)}.`;
  set(
    "restores-note",
    `${restores.succeeded.toLocaleString()} of ${restores.attempted.toLocaleString()} succeeded in ${when}.${times}`,
  );
}

function unknown(id) {
  set(id, "Not known");
  set(`${id}-note`, "It is in the database, which cannot be read now.");
}

function showSnapshots({ snapshots }) {
  const linked = snapshots.companies_covered + snapshots.without;
  byId("snapshots-tile").classList.toggle("alarming", !snapshots.enabled || snapshots.without > 0);
  if (!snapshots.enabled) {
    set("snapshots", "Off");
    set("snapshots-note", "No key is configured: if the disk is lost, every company scans again.");
    return;
  }
  set("snapshots", linked ? `${snapshots.companies_covered.toLocaleString()} of ${linked.toLocaleString()}` : "–");
  const notes = [];
  if (snapshots.without) notes.push(`${count(snapshots.without, "session has", "sessions have")} no copy.`);
  if (snapshots.oldest_seconds !== null) {
    notes.push(`The oldest copy is from ${seconds(snapshots.oldest_seconds)} ago.`);
  }
  set("snapshots-note", notes.join(" "));
}

function showEngines({ engines }) {
  byId("engines-tile").hidden = engines === null;
  if (engines === null) return;
  set("engines", `${engines.running} of ${engines.total}`);
  const deaths = count(engines.deaths, "has", "have");
  set("engines-note", `Running, in ${Math.round(engines.memory_mb)}\u00a0MB. ${deaths} ended unasked since the start.`);
}

function company(entry) {
  const link = part("a", "");
  link.href = `/dashboard/companies/${entry.company_id}`;
  const who = part("span", "who");
  who.append(part("strong", "", entry.push_name ?? "Company"), part("span", "id", entry.company_id));
  link.append(who);
  return link;
}

function showProblems({ problems, sessions }) {
  const well = sessions.should_run > 0 ? "Every session that should run is connected." : "No session should run.";
  const left = problems.length - MOST_PROBLEMS;
  set("problems-note", problems.length ? (left > 0 ? `The first ${MOST_PROBLEMS} of ${problems.length}.` : "") : well);
  byId("problems").replaceChildren(
    ...problems.slice(0, MOST_PROBLEMS).map((problem) => {
      const item = document.createElement("li");
      const link = company(problem);
      const state = part("span", "badge");
      badge(state, problem.status);
      const when = part("span", "when", problem.since ? ago(problem.since, serverNow()) : "");
      when.title = problem.since ? `Since ${moment(problem.since)}` : "";
      const todo = part("span", "todo", `${headline(problem)}. ${ACTIONS[problem.user_action] ?? ""}.`);
      link.prepend(state);
      link.append(when, todo);
      item.append(link);
      return item;
    }),
  );
}

function showWorst({ uptime }) {
  const worst = (uptime?.worst ?? []).filter((entry) => entry.percent < 100);
  byId("worst-part").hidden = worst.length === 0;
  byId("worst").replaceChildren(
    ...worst.map((entry) => {
      const item = document.createElement("li");
      const link = company(entry);
      const bar = document.createElement("progress");
      bar.max = 100;
      bar.value = entry.percent;
      bar.setAttribute("aria-label", "Uptime");
      link.append(bar, part("span", "number", percent(entry.percent)));
      item.append(link);
      return item;
    }),
  );
}

function chosenHours() {
  return document.querySelector("input[name=hours]:checked").value;
}

function show(report) {
  const when = WINDOWS[report.hours];
  showNow(report);
  showUptime(report, when);
  showRestores(report, when);
  showSnapshots(report);
  showEngines(report);
  showProblems(report);
  showWorst(report);
  const time = new Date(report.generated_at).toLocaleTimeString();
  set("summary", `As of ${time}`);
  byId("history-notice").hidden = report.history_problem === null;
  set(
    "history-notice",
    report.history_problem === null
      ? ""
      : `The past cannot be told now: ${report.history_problem} What is shown of the present is current.`,
  );
  byId("report").hidden = false;
}

async function look() {
  const hours = chosenHours();
  try {
    const report = await get("/report", { hours });
    byId("notice").hidden = true;
    if (hours === chosenHours()) show(report);
    return EVERY_MS;
  } catch (error) {
    byId("notice").textContent = error.message;
    byId("notice").hidden = false;
    return AGAIN_MS;
  }
}

const poller = new Poller(look);
const remembered = document.querySelector(`input[name=hours][value="${Number(location.hash.slice(1))}"]`);
if (remembered) remembered.checked = true;
byId("window").addEventListener("change", () => {
  history.replaceState(null, "", `#${chosenHours()}`);
  poller.now();
});
poller.now();
