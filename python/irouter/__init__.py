"""Latency-aware routing of LLM requests: a router to embed, its simulator, and comparisons of policies."""
