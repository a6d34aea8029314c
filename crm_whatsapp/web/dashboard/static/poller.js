// Repeats a look-up, slower when nothing is passing, not at all while the page is hidden.

export const FAST_MS = 2000;
export const SLOW_MS = 10000;
export const LIVE_MS = 60000; // changes are heard of anyway

export class Poller {
  /** look: async; returns how many ms to wait before the next look. */
  constructor(look) {
    this.look = look;
    this.timer = null;
    this.running = false;
    this.again = false;
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.now();
    });
  }

  async now() {
    if (this.running) {
      this.again = true;
      return;
    }
    this.running = true;
    clearTimeout(this.timer);
    let waitMs;
    do {
      this.again = false;
      waitMs = await this.look();
    } while (this.again);
    this.running = false;
    this.wait(waitMs);
  }

  /** Look next after so many ms. */
  wait(ms) {
    clearTimeout(this.timer);
    if (document.visibilityState === "visible") this.timer = setTimeout(() => this.now(), ms);
  }
}
