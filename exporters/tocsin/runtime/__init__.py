"""The process behind the page of metrics: event loops, garbage collection, threads, the container's memory."""
