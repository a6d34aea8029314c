// What a CRM does in the browser: the token of its user, and nothing else of the service.
// The test fills in window.crm = {url, companyId, token}, as signing in would.
const show = (id, text) => { document.getElementById(id).textContent = text; };
const note = (text) => { document.getElementById("log").textContent += `${text}\n`; };
let shown = null;

async function whatsapp(path, options = {}) {
  const answer = await fetch(`${window.crm.url}/api/whatsapp/${path}`, {
    ...options,
    headers: { ...options.headers, Authorization: `Bearer ${window.crm.token}` },
  });
  if (answer.ok) return answer;
  const { error } = await answer.json();
  throw Object.assign(new Error(error.message), {
    code: error.code,
    status: answer.status,
    retryAfter: answer.headers.get("Retry-After"),
  });
}

async function refresh() {
  const query = `company_id=${window.crm.companyId}`;
  const status = await (await whatsapp(`status?${query}`)).json();
  show("status", status.status);
  const picture = document.getElementById("qr");
  if (status.status !== "awaiting_scan") picture.hidden = true;
  if (status.status === "awaiting_scan" && status.qr_expires_at !== shown) {
    try {
      const answer = await whatsapp(`qr?${query}`);
      picture.src = URL.createObjectURL(await answer.blob());
      picture.hidden = false;
      shown = status.qr_expires_at;
      note(`qr until ${answer.headers.get("X-Expires-At")}`);
    } catch (error) {
      if (error.code !== "nothing-to-scan") throw error; // the next code comes in a moment
    }
  }
}

async function follow() {
  for (;;) {
    try {
      await refresh();
    } catch (error) {
      show("status", `error ${error.status ?? ""} ${error.code ?? error.message}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}

document.getElementById("connect").addEventListener("click", () => {
  whatsapp("connect", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ company_id: window.crm.companyId, method: "qr" }),
  }).catch((error) => note(`connect: ${error.status} ${error.code}`));
});

// Tell how a call went, as far as the browser lets this page know.
window.tryCall = async (path, options) => {
  try {
    return (await whatsapp(path, options)).status;
  } catch (error) {
    return error.status ?? `blocked: ${error.name}`;
  }
};
window.signIn = (crm) => { window.crm = crm; follow(); };
