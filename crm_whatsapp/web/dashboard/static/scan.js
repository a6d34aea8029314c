// The panel with the QR code or the pairing code. Each code is heard of as it is issued; when that
// does not work, the next one is fetched as the old one runs out.

import { get, getBlob, serverNow } from "./api.js";
import { duration } from "./words.js";

const AHEAD_MS = 1000;
const LATE_MS = 3000; // for one that should have been heard of
const PAUSE_MS = 1000; // between two requests, also when the next code is late
const byId = (id) => document.getElementById(id);

export class ScanPanel {
  /** isLive: tells whether codes are heard of, or are about to be. */
  constructor(companyId, sandboxPhoneUrl, isLive) {
    this.companyId = companyId;
    this.isLive = isLive;
    this.sandboxPhoneUrl = sandboxPhoneUrl;
    this.code = null; // {value, kind, expiresAt, lifetime}
    this.open = false;
    this.openedAt = 0;
    this.fetching = false;
    this.hasFailed = false;
    this.pauseMs = PAUSE_MS;
    this.pictureUrl = null;
    setInterval(() => this.tick(), 250);
  }

  /** Follow a status: open while the phone has to do something. */
  follow(status) {
    const isOpen = status.status === "awaiting_scan";
    if (isOpen && !this.open) this.openedAt = performance.now();
    this.open = isOpen;
    byId("scan-panel").hidden = !this.open;
    if (!this.open) {
      this.clear();
      return;
    }
    if (this.isLive()) return; // the code comes right behind
    const expiresAt = Date.parse(status.qr_expires_at ?? "");
    if (!this.code || (expiresAt && expiresAt !== this.code.expiresAt)) this.refresh();
  }

  /** Show a code that was heard of. */
  offer(code) {
    if (this.open && code.value !== this.code?.value) this.show(code);
  }

  clear() {
    this.code = null;
    byId("qr").hidden = byId("code").hidden = byId("expiry").hidden = byId("sandbox").hidden = true;
    byId("qr-image").removeAttribute("src");
    byId("scan-wait").hidden = false;
    if (this.pictureUrl) URL.revokeObjectURL(this.pictureUrl);
    this.pictureUrl = null;
  }

  tick() {
    if (!this.open) return;
    if (!this.code) {
      if (this.hasFailed || performance.now() - this.openedAt > LATE_MS) this.refresh();
      return;
    }
    const left = this.code.expiresAt - serverNow();
    byId("expiry-bar").value = Math.max(0, Math.min(1, left / this.code.lifetime));
    const next = this.code.kind === "qr" ? " The next one appears by itself." : "";
    byId("expiry-text").textContent =
      left > 0 ? `This code works for ${duration(left)} more.${next}` : "Getting the next code…";
    if (left < (this.isLive() ? -LATE_MS : AHEAD_MS)) this.refresh();
  }

  async refresh() {
    if (this.fetching) return;
    this.fetching = true;
    try {
      const code = await this.fetchCode();
      if (this.open && code && code.value !== this.code?.value) await this.show(code);
    } finally {
      setTimeout(() => (this.fetching = false), this.pauseMs);
      this.pauseMs = PAUSE_MS;
    }
  }

  async fetchCode() {
    const where = { company_id: this.companyId };
    const kinds = this.code ? [this.code.kind] : ["qr", "code"];
    for (const kind of kinds) {
      try {
        const body =
          kind === "qr"
            ? await get("/qr", { ...where, format: "raw" })
            : await get("/pairing-code", where);
        return { kind, value: body.value ?? body.code, expiresAt: Date.parse(body.expires_at) };
      } catch (error) {
        if (error.code === "nothing-to-scan") continue;
        this.pauseMs = Math.max(PAUSE_MS, error.retryAfterMs ?? 0);
        return null; // the next poll tells what is wrong
      }
    }
    return null;
  }

  async show(code) {
    if (code.kind === "qr") {
      this.hasFailed = !(await this.showPicture());
      if (this.hasFailed) return; // asked for again with the next tick
    } else {
      byId("code-value").textContent = code.value;
      byId("code-value").setAttribute("aria-label", [...code.value].join(" "));
    }
    if (!this.open) return;
    this.code = { ...code, lifetime: Math.max(1, code.expiresAt - serverNow()) };
    byId("qr").hidden = code.kind !== "qr";
    byId("code").hidden = code.kind !== "code";
    byId("scan-wait").hidden = true;
    byId("expiry").hidden = false;
    if (this.sandboxPhoneUrl && code.kind === "qr") {
      const base = this.sandboxPhoneUrl.replace(/\/$/, "");
      byId("sandbox-link").href = `${base}/?qr=${encodeURIComponent(code.value)}`;
      byId("sandbox").hidden = false;
    }
    this.tick();
  }

  async showPicture() {
    let picture;
    try {
      picture = await getBlob("/qr", { company_id: this.companyId, format: "svg" });
    } catch (error) {
      this.pauseMs = Math.max(PAUSE_MS, error.retryAfterMs ?? 0);
      return false;
    }
    const url = URL.createObjectURL(picture);
    byId("qr-image").src = url;
    if (this.pictureUrl) URL.revokeObjectURL(this.pictureUrl);
    this.pictureUrl = url;
    return true;
  }
}
