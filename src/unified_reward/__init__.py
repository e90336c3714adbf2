"""One vision-language judge for generated and understood pictures and videos."""
