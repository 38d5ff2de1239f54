"""The gateway: HTTP API, durable jobs and worker processes of one node.

    from gateway.app import create_app
    from gateway.settings import Settings

    app = create_app(Settings(data_dir="data", models_dir="models"))

This process loads no engine: FHE and proving run in worker processes, confidential
inference in an enclave process.
"""
