"""What figure kinds draw with: style, scatter plots with names, the files of a drawing, charts of the page."""
