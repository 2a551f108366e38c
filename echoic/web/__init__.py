"""The web app (`echoic web`, extra `web`): a page, and the JSON API that it uses.

    from echoic.web.app import create_app
    app = create_app(echoic.load("runs/demo"), "field-recordings", Settings())

Nothing here is imported by `import echoic`; app.py and what it needs want fastapi.
"""
