// What the status words, reasons and actions mean to somebody who is not technical.

export const STATUS_LABELS = {
  connected: "Connected",
  connecting: "Connecting",
  awaiting_scan: "Waiting for the phone",
  disconnected: "Not connected",
  logged_out: "Logged out",
  banned: "Suspended",
  failed: "Needs attention",
};

const HEADLINES = {
  "never-connected": "No phone is linked yet",
  online: "WhatsApp is connected",
  stopped: "Disconnected on request",
  restoring: "Reconnecting to WhatsApp",
  "preparing-pairing": "Getting a code for the phone",
  pairing: "Link the phone now",
  "finishing-pairing": "The phone is linked, finishing up",
  "network-lost": "The connection dropped, reconnecting",
  "whatsapp-unreachable": "WhatsApp cannot be reached right now",
  "stream-replaced": "Another program took over this connection",
  "phone-unlinked": "The link was removed on the phone",
  "logged-out-by-server": "WhatsApp ended this link",
  "logged-out-by-user": "Logged out",
  "temporary-ban": "WhatsApp has suspended this number for a while",
  "client-outdated": "This software must be updated",
  "connect-failure": "WhatsApp refused the connection",
  "pairing-expired": "The code was not used in time",
  "pairing-failed": "Linking the phone did not work",
  "credentials-missing": "The saved link is gone",
  "store-corrupt": "The saved link is damaged",
  "store-foreign": "The saved link comes from another program",
  "storage-unavailable": "The place where links are saved cannot be used",
  "key-missing": "The saved link cannot be unlocked",
  "engine-crash": "The connection stopped unexpectedly",
  "held-elsewhere": "Another server looks after this company",
  "logging-out": "Logging out",
  "service-stopped": "The service is restarting",
};

const ADVICE = {
  none: "Everything works. There is nothing to do.",
  connect: "Choose how to link the phone, then press Connect WhatsApp.",
  scan: "Follow the steps next to the code.",
  retry: "Press Reconnect to try again.",
  wait: "There is nothing to do. It continues by itself.",
  upgrade: "Tell whoever runs this service to install the newest version.",
  "contact-support": "Tell whoever runs this service, and pass on the details below.",
};

export function headline(status) {
  // A pairing that was cancelled: nothing has ever been connected.
  if (status.reason === "stopped" && !status.phone_number) return HEADLINES["never-connected"];
  return HEADLINES[status.reason] ?? STATUS_LABELS[status.status];
}

export function guidance(status) {
  if (status.reason === "stopped" && status.phone_number) {
    return "Press Reconnect to use the saved link. No new scan is needed.";
  }
  if (status.user_action === "none" && !status.is_connected) return ADVICE.wait;
  return ADVICE[status.user_action] ?? "";
}

export function badge(element, status) {
  element.textContent = STATUS_LABELS[status] ?? status;
  element.dataset.status = status;
}

/** True while the status is about to change by itself. */
export function isPassing(status) {
  return (
    ["connecting", "awaiting_scan"].includes(status.status) || status.reason === "logging-out"
  );
}

export function phone(number) {
  return `+${number.replace(/^\+/, "")}`;
}

export function moment(iso) {
  if (!iso) return "–";
  return new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** How long ago, in the words of the reader's language. */
export function ago(iso, nowMs) {
  const minutes = Math.min(0, Math.round((Date.parse(iso) - nowMs) / 60000));
  const words = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });
  if (minutes > -60) return words.format(minutes, "minute");
  if (minutes > -60 * 36) return words.format(Math.round(minutes / 60), "hour");
  return words.format(Math.round(minutes / 1440), "day");
}

export function duration(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
