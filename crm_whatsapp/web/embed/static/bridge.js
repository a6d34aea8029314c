// The conversation with the page of the CRM that holds this one in a frame: window to window, with
// the page right around this one, and only when the server lists its origin.

import { ApiError, serverNow } from "./api.js";

const TOKEN = /^[\w-]+\.[\w-]+\.[\w-]+$/;
const LONGEST_TOKEN = 8192;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const AHEAD_MS = 60000; // a token is replaced so long before it ends
const PATIENCE_MS = 20000; // then a call that waits for a token is given up
const FIRST_PAUSE_MS = 2000; // before the page is asked again; doubles
const LONGEST_PAUSE_MS = 60000;

export class Bridge {
  /**
   * opened: called with the company, once, when the first token is there.
   * renewed: called when another token has replaced one.
   * refused: called with what is wrong with a message of the page.
   */
  constructor(origins, { opened, renewed, refused }) {
    this.origins = new Set(origins);
    this.handlers = { opened, renewed, refused };
    this.origin = null; // of the page around, once it has spoken
    this.companyId = null;
    this.token = null;
    this.life = null; // {issuedAt, expiresAt} as the token says
    this.asked = null; // the timer of the next question
    this.question = null; // the one asked last: {why, at}
    this.waiting = new Set();
    window.addEventListener("message", (event) => this.hear(event));
    setInterval(() => this.watch(), 1000);
    this.ask("whatsapp-ready", FIRST_PAUSE_MS);
  }

  hear({ origin, source, data }) {
    if (data?.type !== "whatsapp-session") return;
    if (source !== window.parent || !this.origins.has(origin)) {
      console.warn(`ignored from ${origin}: it is not the page around, or not in EMBED_ORIGINS`);
      return;
    }
    this.origin = origin;
    const { token, company_id: companyId } = data;
    if (typeof token !== "string" || token.length > LONGEST_TOKEN || !TOKEN.test(token)) {
      this.refuse("token must be the access token of the user who is signed in");
    } else if (typeof companyId !== "string" || !UUID.test(companyId)) {
      this.refuse("company_id must be a UUID of 36 characters");
    } else if (this.companyId && this.companyId !== companyId.toLowerCase()) {
      window.location.reload(); // nothing of one company stays in the page of another
    } else {
      this.take(token, companyId.toLowerCase());
    }
  }

  refuse(what) {
    this.handlers.refused(what);
    this.tell("whatsapp-error", { code: "bad-message", message: what });
  }

  take(token, companyId) {
    const isFirst = !this.companyId;
    const isNew = this.token !== token;
    this.companyId = companyId;
    if (isNew) {
      this.token = token;
      this.life = lifeOf(token);
      clearTimeout(this.asked);
      this.asked = null;
      for (const wake of this.waiting) wake();
    }
    if (isFirst) this.handlers.opened(companyId);
    else if (isNew) this.handlers.renewed();
  }

  /** What proves who calls, for the API. */
  get proof() {
    return {
      credentials: "omit", // no cookie, whatever this browser has
      headers: () => ({ Authorization: `Bearer ${this.token}` }),
      renew: (shown) => this.renew(shown.Authorization.slice("Bearer ".length)),
    };
  }

  /** Get another token than this one, which was refused. */
  async renew(refused) {
    if (this.token === refused) {
      const { why, at } = this.question;
      if (!this.asked || why !== "refused" || performance.now() - at > FIRST_PAUSE_MS) {
        this.ask("whatsapp-token-wanted", FIRST_PAUSE_MS, "refused");
      }
      await this.anotherToken();
    }
    if (this.token !== refused) return true;
    throw new ApiError(
      "signed-out",
      "The sign-in has ended. Reload this page; if that does not help, sign in again.",
    );
  }

  anotherToken() {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.waiting.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, PATIENCE_MS);
      this.waiting.add(wake);
    });
  }

  /** Ask for a token, and again with growing pauses until another one comes. */
  ask(type, pauseMs, why) {
    // The first words go to whoever is around: they hold nothing, and the answer says who it is.
    clearTimeout(this.asked);
    this.question = { why, at: performance.now() };
    window.parent.postMessage(why ? { type, why } : { type }, this.origin ?? "*");
    const next = Math.min(pauseMs * 2, LONGEST_PAUSE_MS);
    this.asked = setTimeout(() => this.ask(type, next, why), pauseMs);
  }

  /** Ask for the next token before this one ends. */
  watch() {
    if (!this.life || this.asked) return;
    const ahead = Math.min(AHEAD_MS, (this.life.expiresAt - this.life.issuedAt) / 3);
    if (this.life.expiresAt - serverNow() < ahead) {
      this.ask("whatsapp-token-wanted", FIRST_PAUSE_MS, "expiring");
    }
  }

  /** Tell the page around, and nobody else. */
  tell(type, content) {
    if (this.origin) window.parent.postMessage({ type, ...content }, this.origin);
  }
}

/** When a token was made and ends; null when it does not say. The server alone judges it. */
function lifeOf(token) {
  try {
    const text = atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    const { iat, exp } = JSON.parse(text);
    const life = { issuedAt: iat * 1000, expiresAt: exp * 1000 };
    return Number.isFinite(life.expiresAt - life.issuedAt) ? life : null;
  } catch {
    return null; // then it is replaced when it is refused
  }
}
