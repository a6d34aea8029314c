// Hears of every change as it happens (Server-Sent Events over fetch), and says when it cannot.

import { openStream } from "./api.js";

const SILENCE_MS = 3000 * Number(document.body.dataset.heartbeatSeconds); // three are missing
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 30000;

export class Live {
  /**
   * heard: called with each event's name and data.
   * changed: called with true once events arrive, with false when polling has to do.
   */
  constructor(parameters, { heard, changed }) {
    this.parameters = parameters;
    this.heard = heard;
    this.changed = changed;
    this.isLive = null; // not known yet
    this.lastId = null;
    this.controller = null;
    this.askedToWaitMs = 0;
    // A hidden page needs no stream, and a browser opens only six connections to one server.
    document.addEventListener("visibilitychange", () => this.follow());
    this.follow();
  }

  follow() {
    if (document.visibilityState !== "visible") this.controller?.abort();
    else if (!this.controller) this.run();
  }

  async run() {
    const controller = (this.controller = new AbortController());
    let pause = FIRST_PAUSE_MS;
    while (!controller.signal.aborted) {
      this.askedToWaitMs = 0;
      const worked = await this.listen(controller.signal);
      if (controller.signal.aborted) break;
      if (!worked) this.set(false);
      pause = worked ? FIRST_PAUSE_MS : Math.min(pause * 2, LONGEST_PAUSE_MS);
      await rest(this.askedToWaitMs + pause * (0.75 + Math.random() / 2), controller.signal);
    }
    this.set(false);
    this.controller = null;
    this.follow(); // shown again in the meantime
  }

  /** Read one stream to its end; true when there was something to read. */
  async listen(signal) {
    const silence = new AbortController();
    const quit = () => silence.abort();
    signal.addEventListener("abort", quit);
    let timer = setTimeout(quit, SILENCE_MS);
    let worked = false;
    try {
      const body = await openStream(this.parameters, this.lastId, silence.signal);
      const reader = body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return worked;
        clearTimeout(timer);
        timer = setTimeout(quit, SILENCE_MS);
        worked = true;
        this.set(true);
        const blocks = (text + value).split("\n\n");
        text = blocks.pop();
        blocks.forEach((block) => this.take(block));
      }
    } catch (error) {
      this.askedToWaitMs = error?.retryAfterMs ?? 0;
      return worked; // it was cut off: the next one goes on after the last event
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", quit);
    }
  }

  take(block) {
    const fields = {};
    for (const line of block.split("\n")) {
      const [, name, value] = /^([a-z]+): (.*)$/.exec(line) ?? [];
      if (name) fields[name] = value;
    }
    if (fields.data) this.heard(fields.event, JSON.parse(fields.data));
    if (fields.id) this.lastId = fields.id;
  }

  set(isLive) {
    if (isLive === this.isLive) return;
    this.isLive = isLive;
    this.changed(isLive);
  }
}

function rest(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
