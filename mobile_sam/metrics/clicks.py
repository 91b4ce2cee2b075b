def number_of_clicks(ious, target, most=20):
    return next((n for n, v in enumerate(ious, 1) if v >= target), most)
