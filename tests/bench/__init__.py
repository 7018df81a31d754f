"""Compare ways to carry TCP connections: ``python -m tests.bench``. docs/performance.md says what is measured."""
