"""What /readyz says of alerts: whether they reach anybody."""

from crm_whatsapp.service.alert_courier import AlertCourier
from crm_whatsapp.service.alert_desk import open_by_kind
from crm_whatsapp.service.alert_memory import AlertMemory
from crm_whatsapp.service.readiness import ReadinessCheck


def alert_check(memory: AlertMemory, courier: AlertCourier) -> ReadinessCheck:
    """Return the check: not ok when a channel fails. What is open is told, and no fault of it."""
    figures = courier.figures()
    problems = list(courier.problems)
    problems += [f"{item.name}: {item.problem}" for item in figures if item.problem is not None]
    if memory.problem is not None:
        problems.append(memory.problem)
    if memory.dropped:
        problems.append(f"{memory.dropped} messages were given up")
    channels = f"{len(figures)} channels" if figures else "no channel: ALERT_URLS is not set"
    return ReadinessCheck(
        name="alerts",
        ok=not problems,
        detail="; ".join(problems) or channels,
        data={
            "open": open_by_kind(memory.record.book),
            "dropped": memory.dropped,
            "channels": [
                {
                    "name": item.name,
                    "sent": item.sent,
                    "failed": item.failed,
                    "waiting": item.waiting,
                    "problem": item.problem,
                    "last_sent_at": item.last_sent_at,
                }
                for item in figures
            ],
        },
    )
