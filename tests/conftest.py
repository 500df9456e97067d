"""Hypothesis profiles: 100 examples in the gate, 10,000 at night (HYPOTHESIS_PROFILE=nightly)."""

import os

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # a bare environment runs the tests marked "inference", which do without
    pass
else:
    common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("default", max_examples=100, **common)
    settings.register_profile("nightly", max_examples=10_000, **common)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
