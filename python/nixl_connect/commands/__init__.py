"""What is run as a command: ``nixl-connect``, and what it runs in processes of its own."""
