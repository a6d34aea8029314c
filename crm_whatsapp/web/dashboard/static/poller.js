// Repeats a look-up, slower when nothing is passing, not at all while the page is hidden.

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
    if (document.visibilityState === "visible") this.timer = setTimeout(() => this.now(), waitMs);
  }
}
