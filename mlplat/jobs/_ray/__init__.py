"""Jobs on Ray: the controller, what it sees and does, and what runs a job's command."""
