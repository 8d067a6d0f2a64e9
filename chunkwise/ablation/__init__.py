"""The lab: plan -> resolution -> study -> statistics -> report.

    plan        text in many forms -> entries (plan_text, plan_forms: decoding and forms; plan_document: the result)
    resolve     entries -> arms, by registry (which component), interpret (which value) and profile (which scale)
    results     what was measured; contrasts and statistics -> verdicts; findings, page, report -> what one reads

Reading a plan imports nothing heavy; resolving one imports the configs of all stages.
"""
