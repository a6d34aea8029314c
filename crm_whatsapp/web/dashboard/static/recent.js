// The companies opened in this browser, so that a disconnected one can be found again.

const KEY = "crm_whatsapp_companies";
const MOST = 20;

export function recentCompanies() {
  try {
    const ids = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(ids) ? ids.filter((id) => typeof id === "string") : [];
  } catch {
    return []; // storage is turned off or holds something else
  }
}

export function remember(companyId) {
  store([companyId, ...recentCompanies().filter((id) => id !== companyId)].slice(0, MOST));
}

function store(ids) {
  try {
    localStorage.setItem(KEY, JSON.stringify(ids));
  } catch {
    // Storage is turned off: the list is a convenience, the page works without it.
  }
}
