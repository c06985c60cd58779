"""The dashboard: one page, its pictures and figures, and Prometheus metrics, over HTTP."""
