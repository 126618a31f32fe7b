"""What runs in a browser: pages, their scripts and styles."""


def page(name):
    return "<!doctype html><title>x</title>"


def content_policy(html):
    return "default-src 'none'"
