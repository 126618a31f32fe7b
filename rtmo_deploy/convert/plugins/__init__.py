"""What only a build needs of the decode plugin: the graph rewrite and the kernel's source.

What a running engine needs, the PTX and the plugin classes, is in :mod:`rtmo_deploy.runtime.plugins`.
"""
