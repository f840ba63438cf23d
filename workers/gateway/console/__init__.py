"""The console: the gateway's pages for people, who see and steer the fleet through the operations of its API.

A page is made of three things:

1. a function in a module of ``pages/``, which gets a ``Visit``, calls operations by ``await visit.call("Sessions.List",
   request)`` and returns ``visit.render("sessions.html.j2", …)``. What the visitor may not do raises;
   ``visit.can(name)`` tells beforehand, so that a template shows no button that would be refused;
2. a template in ``templates/``, which extends ``layout.html.j2`` and uses the macros of ``parts.html.j2``. Everything
   is escaped; values of users go through the filters of ``rendering.py``, which cut them and show control characters;
3. a ``Page`` in the module's ``PAGES``, with its path, the operation that it can't do without, and its place in the
   menu if it has one. ``pages/__init__.py`` lists the modules in the order of the menu.

A page has no inline script or style: the content security policy refuses them. What moves on a page is a fragment of
it: an element with ``data-live="/fleet/live"``, whose page is a ``Page`` with ``live=True`` that renders the fragment.
One poller in this process renders it for all viewers of a grant, and they get it by server-sent events when it changes.

Forms are sent by POST, each with ``{{ parts.csrf() }}`` in it. Before the function of a ``Page`` with ``method="POST"``
runs, the token has been checked; its operations raise unless the visitor has allowed changes. It returns
``visit.redirect(path, done="…")``, with a notice of ``page.py``.
"""
