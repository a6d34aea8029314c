// What a page does for the session of one company: it follows the status, by events or, where there
// are none, by polls, shows it, links a phone, and runs commands. Both the dashboard and the page
// that stands in a frame of the CRM are made with it.

import { get, post, serverNow } from "./api.js";
import { Live } from "./live.js";
import { FAST_MS, LIVE_MS, Poller, SLOW_MS } from "./poller.js";
import { ScanPanel } from "./scan.js";
import { badge, duration, guidance, headline, isPassing, moment, phone } from "./words.js";

const NOTHING_SAVED = [
  "never-connected",
  "pairing-expired",
  "pairing-failed",
  "credentials-missing",
  "logging-out",
];

export const byId = (id) => document.getElementById(id);

export function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text; // else a reader says it again
}

function setFact(id, text) {
  setText(id, text ?? "");
  byId(id).parentElement.hidden = !text;
}

/** What can be done about a session in this state. */
export function possibilities(status) {
  const state = status.status;
  const isLeaving = status.reason === "logging-out";
  const isSaved =
    !NOTHING_SAVED.includes(status.reason) &&
    state !== "logged_out" &&
    (state !== "disconnected" || Boolean(status.phone_number)); // a cancelled pairing has none
  const isDown = ["disconnected", "failed"].includes(state) && !isLeaving;
  return {
    isSaved,
    restore: (isDown && isSaved) || (state === "connecting" && Boolean(status.retry_at)),
    disconnect: ["connected", "connecting"].includes(state) && !isLeaving,
    logout: isSaved && state !== "awaiting_scan" && status.reason !== "finishing-pairing",
    connect: isDown || state === "logged_out",
  };
}

export class SessionPage {
  /**
   * shown: called with each status once it is on the page.
   * failed: called with each error that is; returns what to tell people of it.
   * liveChanged: called with whether changes are heard of as they happen.
   * mayManage: whether this person may link a phone and run commands.
   */
  constructor(companyId, { sandboxPhoneUrl, shown, failed, liveChanged, mayManage } = {}) {
    this.companyId = companyId;
    this.shown = shown ?? (() => {});
    this.failed = failed ?? ((error) => error.message);
    this.liveChanged = liveChanged ?? (() => {});
    this.mayManage = mayManage ?? (() => true);
    this.current = null;
    this.changesHeard = 0;
    this.noticeIsOfPoll = false;
    this.held = new Map(); // buttons, and until when
    this.live = null;
    this.scanPanel = new ScanPanel(companyId, sandboxPhoneUrl, () => this.live?.isLive !== false);
    this.poller = new Poller(() => this.look());
    for (const name of ["restore", "disconnect"]) {
      byId(name).addEventListener("click", () => this.ask(name));
    }
    byId("cancel").addEventListener("click", () => this.run("cancel", "/disconnect"));
    this.followForm(byId("connect-form"));
    setInterval(() => this.tick(), 1000);
  }

  async begin() {
    await this.poller.now();
    this.live = new Live(
      { company_id: this.companyId },
      {
        heard: (name, data) => this.hear(name, data),
        changed: (isLive) => {
          this.liveChanged(isLive);
          if (isLive) this.poller.wait(LIVE_MS);
          else if (document.visibilityState === "visible") this.poller.now();
        },
      },
    );
  }

  notify(message, { ofPoll = false } = {}) {
    setText("notice", message);
    byId("notice").hidden = !message;
    this.noticeIsOfPoll = ofPoll;
  }

  async look() {
    try {
      await this.showAnswer(get("/status", { company_id: this.companyId }));
      if (this.noticeIsOfPoll) this.notify("");
      if (this.live?.isLive) return LIVE_MS;
      return isPassing(this.current) ? FAST_MS : SLOW_MS;
    } catch (error) {
      this.notify(this.failed(error), { ofPoll: true });
      return Math.max(FAST_MS * 2, error.retryAfterMs ?? 0);
    }
  }

  /** Show what was asked for, unless something newer was heard in the meantime. */
  async showAnswer(asked) {
    const before = this.changesHeard;
    const status = await asked;
    if (before === this.changesHeard || !this.current) this.show(status);
  }

  hear(name, data) {
    if (name === "status") {
      this.changesHeard += 1;
      this.show(data);
      if (this.noticeIsOfPoll) this.notify("");
    } else if (name === "qr") {
      this.scanPanel.offer({ kind: "qr", value: data.value, expiresAt: Date.parse(data.expires_at) });
    } else if (name === "pairing_code") {
      this.scanPanel.offer({ kind: "code", value: data.code, expiresAt: Date.parse(data.expires_at) });
    }
  }

  show(status) {
    const focused = document.activeElement;
    this.current = status;
    badge(byId("badge"), status.status);
    setText("headline", headline(status));
    const isForThem = this.mayManage() || ["none", "wait"].includes(status.user_action);
    setText("guidance", isForThem ? guidance(status) : "");
    const since = moment(status.last_connected_at);
    setFact("phone", status.phone_number && phone(status.phone_number));
    setFact("push-name", status.push_name);
    setFact(
      "last-connected",
      status.last_connected_at && (status.is_connected ? `Now, since ${since}` : since),
    );
    setText("message", status.message);
    setText("reason", status.reason);
    this.tick();
    this.showControls(status);
    this.scanPanel.follow(this.mayManage() ? status : { ...status, status: "hidden" });
    this.shown(status);
    // The control with the focus may be gone: keep keyboard users where the news is.
    if (focused !== document.body && !focused.checkVisibility()) byId("headline").focus();
  }

  showControls(status) {
    const can = possibilities(status);
    const mayManage = this.mayManage();
    for (const name of ["restore", "disconnect"]) byId(name).hidden = !(mayManage && can[name]);
    byId("connect-panel").hidden = !(mayManage && can.connect);
    byId("fresh-field").hidden = !can.isSaved;
    setText("connect-title", can.isSaved ? "Or link a phone again" : "Link a phone");
    byId("connect").classList.toggle("primary", !can.isSaved);
  }

  /** Count down to what happens by itself, and to when the server takes the next command. */
  tick() {
    const left = Date.parse(this.current?.retry_at ?? "") - serverNow();
    byId("retry").hidden = !(left > 0);
    if (left > 0) {
      const what = this.current.status === "banned" ? "The suspension ends" : "Next try";
      byId("retry").textContent = `${what} in ${duration(left)}.`;
    }
    this.release();
  }

  /** Give the buttons back that the server wanted to be left alone by for a while. */
  release() {
    const now = performance.now();
    for (const [button, until] of this.held) {
      if (until > now) continue;
      this.held.delete(button);
      button.disabled = false;
      this.notify("");
    }
    const next = Math.min(...this.held.values());
    byId("hold").hidden = !this.held.size;
    if (this.held.size) byId("hold").textContent = `You can try again in ${duration(next - now)}.`;
  }

  /** Run the command of a button at once. A page that asks people first replaces this. */
  ask(name) {
    return this.run(name, `/${name}`);
  }

  /** Post a command with its button disabled, then show the status that was the answer. */
  run(buttonId, path) {
    return this.command(byId(buttonId), () => post(path, { company_id: this.companyId }));
  }

  async command(button, run) {
    const hadFocus = document.activeElement === button;
    button.disabled = true; // takes the focus away
    this.notify("");
    try {
      await this.showAnswer(run());
    } catch (error) {
      this.notify(this.failed(error));
      if (error.retryAfterMs) this.held.set(button, performance.now() + error.retryAfterMs);
    } finally {
      button.disabled = this.held.has(button);
      this.release();
      if (hadFocus && document.activeElement === document.body) {
        (button.checkVisibility() && !button.disabled ? button : byId("headline")).focus();
      }
      this.poller.now();
    }
  }

  followForm(form) {
    form.addEventListener("change", () => {
      byId("phone-field").hidden = form.elements.method.value !== "pairing_code";
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.command(byId("connect"), () => this.connect(form.elements));
    });
  }

  async connect({ method, phone_number: number, fresh }) {
    const body = { company_id: this.companyId, method: method.value, fresh: fresh.checked };
    if (method.value === "pairing_code") body.phone_number = number.value.trim();
    showPhoneError("");
    try {
      const answer = await post("/connect", body);
      fresh.checked = false;
      return answer;
    } catch (error) {
      if (error.field !== "phone_number") throw error;
      showPhoneError("Please enter the number with its country code, such as +55 11 98765-4321.");
      return this.current;
    }
  }
}

function showPhoneError(message) {
  byId("phone-error").textContent = message;
  byId("phone-number").setAttribute("aria-invalid", String(Boolean(message)));
  if (message) byId("phone-number").focus();
}
