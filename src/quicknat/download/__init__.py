"""Download, verify and unpack archives."""
