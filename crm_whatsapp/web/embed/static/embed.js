// The page that stands in a frame of the CRM.

import { get, proveBy } from "./api.js";
import { Bridge } from "./bridge.js";
import { byId, possibilities, SessionPage, setText } from "./session_page.js";

const SILENCE_MS = 10000; // of the page around; then people are told
const STEPS = ["preparing-pairing", "pairing", "finishing-pairing"];
const FOR_SUPPORT = ["retry", "upgrade", "contact-support"]; // who help want to read the details
const TOLD = [
  "company_id",
  "status",
  "is_connected",
  "reason",
  "message",
  "user_action",
  "phone_number",
  "push_name",
  "last_connected_at",
  "retry_at",
];
const NO_ACCESS = {
  headline: "WhatsApp cannot be shown here",
  notice: "Your account does not reach this company's WhatsApp. Ask whoever manages the CRM's users.",
};
const NO_RIGHT =
  "Your account may see this connection, but not change it. Ask whoever manages the CRM's users.";

let bridge = null;
let page = null;
let mayManage = null; // not known yet
let told = "";

function notify(message) {
  setText("notice", message);
  byId("notice").hidden = !message;
}

function shown(status) {
  byId("badge").hidden = false;
  byId("details").hidden = !FOR_SUPPORT.includes(status.user_action);
  byId("viewer").hidden = mayManage !== false;
  const step = STEPS.indexOf(status.reason);
  setText("disconnect", step >= 0 ? "Cancel" : status.is_connected ? "Disconnect" : "Stop trying");
  showSteps(step);
  followPanel(possibilities(status));
  tellStatus(status);
}

function showSteps(step) {
  byId("steps").hidden = step < 0 || !mayManage;
  [...byId("steps").children].forEach((item, index) => {
    item.dataset.is = index < step ? "done" : index === step ? "now" : "later";
    if (index === step) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  });
}

/** Where something is saved, linking a phone again is second choice: folded away. */
function followPanel({ connect, isSaved }) {
  const panel = byId("connect-panel");
  const key = `${connect} ${isSaved}`;
  if (panel.dataset.key !== key) panel.open = !isSaved;
  panel.dataset.key = key;
  panel.toggleAttribute("data-only", !isSaved);
  panel.querySelector("summary").tabIndex = isSaved ? 0 : -1;
  byId("replaces").hidden = !isSaved;
  byId("connect-form").elements.fresh.checked = isSaved; // the saved link has a button of its own
}

function tellStatus(status) {
  const content = Object.fromEntries(TOLD.map((name) => [name, status[name] ?? null]));
  const text = JSON.stringify(content);
  if (text !== told) bridge.tell("whatsapp-status", content);
  told = text;
}

/** Say why there is no connection to be seen. */
function showNothing(headline) {
  setText("headline", headline);
  byId("badge").hidden = byId("details").hidden = true;
}

/** Say what an error means to people; the page around is told the words of the server. */
function failed(error) {
  bridge.tell("whatsapp-error", { code: error.code, message: error.message });
  if (error.code !== "forbidden") return error.message;
  if (page.current && mayManage) {
    learnRights();
    return NO_RIGHT;
  }
  showNothing(NO_ACCESS.headline);
  return NO_ACCESS.notice;
}

/** Find out whether this user may link the phone: codes are for those who may. */
async function learnRights() {
  let may;
  try {
    await get("/pairing-code", { company_id: bridge.companyId });
    may = true;
  } catch (error) {
    if (error.code === "nothing-to-scan") may = true;
    else if (error.code === "forbidden") may = false;
    else {
      setTimeout(learnRights, Math.max(SILENCE_MS, error.retryAfterMs ?? 0));
      return;
    }
  }
  if (may === mayManage) return;
  mayManage = may;
  setText("viewer", may ? "" : NO_RIGHT);
  if (!may) notify("");
  if (page.current) page.show(page.current);
}

function open(companyId) {
  notify("");
  setText("headline", "Looking up the connection…");
  page = new SessionPage(companyId, { shown, failed, mayManage: () => mayManage === true });
  const dialog = byId("disconnect-dialog");
  page.ask = (name) => {
    if (name === "restore") return page.run("restore", "/restore");
    if (STEPS.includes(page.current.reason)) return page.run("disconnect", "/disconnect");
    return dialog.showModal();
  };
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "disconnect") page.run("disconnect", "/disconnect");
    dialog.returnValue = "";
  });
  proveBy(bridge.proof);
  page.begin().then(learnRights);
}

function begin() {
  if (window.parent === window) {
    showNothing("This page belongs into a page of your CRM");
    notify("Open the CRM and look for WhatsApp there.");
    return;
  }
  const silence = setTimeout(
    () =>
      notify(
        "The page around does not say who is signed in. Reload it; if that does not help, tell " +
          "whoever manages the CRM.",
      ),
    SILENCE_MS,
  );
  bridge = new Bridge(document.body.dataset.origins.split(" "), {
    opened: (companyId) => {
      clearTimeout(silence);
      tellHeight();
      open(companyId);
    },
    renewed: () => {
      learnRights();
      page.poller.now();
    },
    refused: (what) => {
      clearTimeout(silence);
      notify(`The page around has sent something else than was asked for: ${what}.`);
    },
  });
  new ResizeObserver(tellHeight).observe(document.body);
}

function tellHeight() {
  bridge.tell("whatsapp-height", { height: Math.ceil(document.body.offsetHeight) });
}

begin();
