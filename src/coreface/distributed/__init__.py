"""All that concerns several processes: their launch, their meeting, and what they compute together."""
