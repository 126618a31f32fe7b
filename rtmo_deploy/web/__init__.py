"""What runs in a browser: pages, their scripts and styles."""

from rtmo_deploy.web.pages import content_security_policy, page, script_hashes

__all__ = ["content_security_policy", "page", "script_hashes"]
