"""What a person sees: status, show, report, doctor."""
