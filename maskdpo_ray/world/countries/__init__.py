"""The world of real facts: countries, their capitals, places, borders, languages and currencies.

The facts are those of the packages ``countryinfo`` and ``pycountry`` (extra ``real``), put right
where they are wrong (``corrections.yaml``).
"""
