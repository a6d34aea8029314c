// The page of one company.

import { post } from "./api.js";
import { remember } from "./recent.js";
import { byId, possibilities, SessionPage, setText } from "./session_page.js";

const { companyId, sandboxPhoneUrl } = byId("content").dataset;
const page = new SessionPage(companyId, {
  sandboxPhoneUrl,
  shown: (status) => {
    setText("name", status.push_name ?? "Company");
    document.title = `${byId("badge").textContent}: ${byId("name").textContent} · WhatsApp sessions`;
    byId("logout").hidden = !possibilities(status).logout;
    byId("test-panel").hidden = status.status !== "connected";
  },
  liveChanged: (isLive) => (byId("live").hidden = !isLive),
});

const dialog = byId("logout-dialog");
byId("logout").addEventListener("click", () => dialog.showModal());
dialog.addEventListener("close", () => {
  if (dialog.returnValue === "logout") page.run("logout", "/logout");
  dialog.returnValue = "";
});

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
    page.poller.now();
  } finally {
    button.disabled = false;
  }
});

function showResult(kind, message) {
  byId("test-result").dataset.kind = kind;
  byId("test-result").textContent = message;
}

remember(companyId);
page.begin();
