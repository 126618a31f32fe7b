"""``rtmo-deploy serve``: a model over HTTP."""
