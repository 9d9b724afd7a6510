"""How many requests are on their way to a release: Envoy's own gauges.

Source: Envoy's cluster statistics ``upstream_rq_active`` (sent, not answered) and
``upstream_rq_pending_active`` (waiting for a connection).
"""

import http.client
import json
import re
from urllib.parse import quote

from activities.targets.base import TargetUnavailable
from models.addresses import GatewayAddress
from models.ids import short

_LOOPBACK = "127.0.0.1"  # the admin interface is never open to others
_TIMEOUT_S = 2.0


def active_requests(gateway: GatewayAddress, release: str) -> int:
    """Requests that the gateway has sent or will send to ``release``; 0 if it does not know it.

    Raises:
        TargetUnavailable: the gateway does not answer.
    """
    prefix = f"cluster.release-{short(release)}."
    pattern = f"^{re.escape(prefix)}upstream_rq_(pending_)?active$"
    connection = http.client.HTTPConnection(_LOOPBACK, gateway.admin_port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", f"/stats?format=json&filter={quote(pattern)}")
        answer = connection.getresponse()
        stats = json.loads(answer.read())["stats"]
        return sum(int(stat["value"]) for stat in stats if "value" in stat)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise TargetUnavailable(f"gateway: its statistics cannot be read: {error!r}") from error
    finally:
        connection.close()
