"""Archives and files from elsewhere: fetched, verified, unpacked."""
