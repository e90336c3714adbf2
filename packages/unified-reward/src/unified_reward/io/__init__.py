"""Files of rows, journals and configurations."""
