"""The HTML report: figures and pages."""
