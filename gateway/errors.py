"""What can go wrong with a gateway."""


class GatewayError(Exception):
    """Envoy refused what it was given; trying the same again will not help."""


class GatewayUnavailable(GatewayError):
    """Envoy did not answer, or did not take an update in time; trying again may help.

    What was to be published stays on disk and is taken when Envoy is back.
    """
