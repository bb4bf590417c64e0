"""What serves the chapters: data, pictures, widgets, checks of exercises and the commands."""
