// The page of one company.

import { get, post, serverNow } from "./api.js";
import { Live } from "./live.js";
import { FAST_MS, LIVE_MS, Poller, SLOW_MS } from "./poller.js";
import { remember } from "./recent.js";
import { ScanPanel } from "./scan.js";
import { badge, duration, guidance, headline, isPassing, moment, phone } from "./words.js";

const NOTHING_SAVED = [
  "never-connected",
  "pairing-expired",
  "pairing-failed",
  "credentials-missing",
  "logging-out",
];

const byId = (id) => document.getElementById(id);
const { companyId, sandboxPhoneUrl } = byId("content").dataset;
const scanPanel = new ScanPanel(companyId, sandboxPhoneUrl, () => live?.isLive);
const poller = new Poller(look);
let live = null;
let current = null;
let changesHeard = 0;
let noticeIsOfPoll = false;

function notify(message, { ofPoll = false } = {}) {
  byId("notice").textContent = message;
  byId("notice").hidden = !message;
  noticeIsOfPoll = ofPoll;
}

async function look() {
  try {
    await showAnswer(get("/status", { company_id: companyId }));
    if (noticeIsOfPoll) notify("");
    if (live?.isLive) return LIVE_MS;
    return isPassing(current) ? FAST_MS : SLOW_MS;
  } catch (error) {
    notify(error.message, { ofPoll: true });
    return FAST_MS * 2;
  }
}

/** Show what was asked for, unless something newer was heard in the meantime. */
async function showAnswer(asked) {
  const before = changesHeard;
  const status = await asked;
  if (before === changesHeard || !current) show(status);
}

function hear(name, data) {
  if (name === "status") {
    changesHeard += 1;
    show(data);
    if (noticeIsOfPoll) notify("");
  } else if (name === "qr") {
    scanPanel.offer({ kind: "qr", value: data.value, expiresAt: Date.parse(data.expires_at) });
  } else if (name === "pairing_code") {
    scanPanel.offer({ kind: "code", value: data.code, expiresAt: Date.parse(data.expires_at) });
  }
}

function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text; // else a reader says it again
}

function setFact(id, text) {
  setText(id, text ?? "");
  byId(id).parentElement.hidden = !text;
}

function show(status) {
  const focused = document.activeElement;
  current = status;
  badge(byId("badge"), status.status);
  setText("headline", headline(status));
  setText("guidance", guidance(status));
  setText("name", status.push_name ?? "Company");
  const since = moment(status.last_connected_at);
  setFact("phone", status.phone_number && phone(status.phone_number));
  setFact("push-name", status.push_name);
  setFact(
    "last-connected",
    status.last_connected_at && (status.is_connected ? `Now, since ${since}` : since),
  );
  setText("message", status.message);
  setText("reason", status.reason);
  document.title = `${byId("badge").textContent}: ${byId("name").textContent} · WhatsApp sessions`;
  showRetry();
  showControls(status);
  scanPanel.follow(status);
  // The control with the focus may be gone: keep keyboard users where the news is.
  if (focused !== document.body && !focused.checkVisibility()) byId("headline").focus();
}

function showControls(status) {
  const state = status.status;
  const mayHaveSaved =
    !NOTHING_SAVED.includes(status.reason) &&
    state !== "logged_out" &&
    (state !== "disconnected" || Boolean(status.phone_number)); // a cancelled pairing has none
  const isDown = ["disconnected", "failed"].includes(state) && status.reason !== "logging-out";
  const isLinked = mayHaveSaved && state !== "awaiting_scan" && status.reason !== "finishing-pairing";
  byId("restore").hidden = !(isDown && mayHaveSaved) && !(state === "connecting" && status.retry_at);
  byId("disconnect").hidden = !["connected", "connecting"].includes(state) || status.reason === "logging-out";
  byId("logout").hidden = !isLinked;
  byId("connect-panel").hidden = !(isDown || state === "logged_out");
  byId("fresh-field").hidden = !mayHaveSaved;
  setText("connect-title", mayHaveSaved ? "Or link a phone again" : "Link a phone");
  byId("connect").classList.toggle("primary", !mayHaveSaved);
  byId("test-panel").hidden = state !== "connected";
}

function showRetry() {
  const left = Date.parse(current?.retry_at ?? "") - serverNow();
  byId("retry").hidden = !(left > 0);
  if (left > 0) {
    const what = current.status === "banned" ? "The suspension ends" : "Next try";
    byId("retry").textContent = `${what} in ${duration(left)}.`;
  }
}

/** Run a command with its button disabled, then show the status it answered with. */
async function command(button, run) {
  const hadFocus = document.activeElement === button;
  button.disabled = true; // takes the focus away
  notify("");
  try {
    await showAnswer(run());
  } catch (error) {
    notify(error.message);
  } finally {
    button.disabled = false;
    if (hadFocus && document.activeElement === document.body) {
      (button.checkVisibility() ? button : byId("headline")).focus();
    }
    poller.now();
  }
}

for (const name of ["restore", "disconnect"]) {
  byId(name).addEventListener("click", (event) =>
    command(event.currentTarget, () => post(`/${name}`, { company_id: companyId })),
  );
}
byId("cancel").addEventListener("click", (event) =>
  command(event.currentTarget, () => post("/disconnect", { company_id: companyId })),
);

const dialog = byId("logout-dialog");
byId("logout").addEventListener("click", () => dialog.showModal());
dialog.addEventListener("close", () => {
  if (dialog.returnValue === "logout") {
    command(byId("logout"), () => post("/logout", { company_id: companyId }));
  }
  dialog.returnValue = "";
});

const connectForm = byId("connect-form");
connectForm.addEventListener("change", () => {
  byId("phone-field").hidden = connectForm.elements.method.value !== "pairing_code";
});
connectForm.addEventListener("submit", (event) => {
  event.preventDefault();
  const { method, phone_number: number, fresh } = connectForm.elements;
  const body = { company_id: companyId, method: method.value, fresh: fresh.checked };
  if (method.value === "pairing_code") body.phone_number = number.value.trim();
  showPhoneError("");
  command(byId("connect"), async () => {
    try {
      const answer = await post("/connect", body);
      fresh.checked = false;
      return answer;
    } catch (error) {
      if (error.field !== "phone_number") throw error;
      showPhoneError("Please enter the number with its country code, such as +55 11 98765-4321.");
      return current;
    }
  });
});

function showPhoneError(message) {
  byId("phone-error").textContent = message;
  byId("phone-number").setAttribute("aria-invalid", String(Boolean(message)));
  if (message) byId("phone-number").focus();
}

const testForm = byId("test-form");
testForm.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = testForm.querySelector("button");
  const { to, text } = testForm.elements;
  button.disabled = true;
  showResult("", "Sending…");
  try {
    await post("/messages/send", {
      company_id: companyId,
      to: to.value.trim(),
      type: "text",
      text: text.value,
    });
    showResult("good", "Sent. WhatsApp has confirmed the message.");
  } catch (error) {
    showResult("bad", error.message);
    poller.now();
  } finally {
    button.disabled = false;
  }
});

function showResult(kind, message) {
  byId("test-result").dataset.kind = kind;
  byId("test-result").textContent = message;
}

remember(companyId);
setInterval(showRetry, 1000);
poller.now();
live = new Live(
  { company_id: companyId },
  {
    heard: hear,
    changed: (isLive) => {
      byId("live").hidden = !isLive;
      if (isLive) poller.wait(LIVE_MS);
      else if (document.visibilityState === "visible") poller.now();
    },
  },
);
