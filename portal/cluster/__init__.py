"""Rows to Kubernetes: what is desired is rendered, applied, and what is ours and no longer desired is pruned."""
