"""The values everything else is written in: samples, verdicts, requests, errors."""
