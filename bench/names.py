"""How many names and places does a model of names find, how often is it wrong, and how long does it take?

    python bench/names.py URL KEY NER_MODEL [THRESHOLD]

Asks `/v1/pii/analyze` for PERSON and LOCATION in 60 sentences that hold such (people of many countries, first names alone, cities,
countries, addresses, in small letters too) and in 60 that hold none, though months, verbs, animals, products, companies and code in
them look like some. Written for this by hand, by nobody who trained a model. A true span is found where a finding of its kind
overlaps it, `whole` where both ends agree; a finding is right where it overlaps a true span of its kind. Then 38 sentences of
English, German, French and Spanish where a title or an initial stands before a name. Intervals are Wilson's, 95 %. Then the time
of 1,000 characters, the median of 20. Standard library only.
"""

import json
import math
import re
import statistics
import sys
import time
import urllib.request

URL, KEY, MODEL = sys.argv[1:4]
THRESHOLD = float(sys.argv[4]) if len(sys.argv) > 4 else 0.5
KINDS = {"P": "PERSON", "L": "LOCATION"}

# [P:…] is a person, [L:…] a place.
WITH = """
My name is [P:Anna Kowalska] and I live in [L:Gdańsk].
Please call [P:David Okafor] before noon.
[P:Maria Fernanda López] signed the lease on Tuesday.
Can you forward this to [P:Tom]?
We met [P:Priya Raman] and her brother in [L:Chennai].
The parcel goes to [P:Hans-Peter Müller], [L:Lindenstraße 14], [L:50674 Köln].
i'm [P:kevin], the new guy from [L:austin].
[P:Dr. Elena Petrova] will see you at three.
Send the invoice to [P:J. R. Whitfield] at [L:88 Harbour Road], [L:Bristol].
She moved from [L:Nairobi] to [L:Toronto] last winter.
Is [P:Yuki Tanaka] still your manager?
[P:Omar Haddad] lost his passport in [L:Marrakesh].
Dear [P:Mrs. Thompson], your appointment has been moved.
The witness, [P:Carlos Mendes], left the bar at midnight.
Our client [P:Siobhan O'Reilly] lives at [L:7 Abbey Lane], [L:Galway].
Thanks, [P:Wei Zhang]
I grew up in [L:Ohio] and studied in [L:Boston].
[P:Lars Johansson] and [P:Ingrid Berg] bought a house in [L:Uppsala].
Tell [P:Grandma Rose] that we land in [L:Phoenix] at six.
Patient: [P:Miguel Ángel Torres], room 12.
[P:Fatima Zahra] teaches in [L:Casablanca].
Ship to: [L:221 Elm Street], [L:Portland], [L:Oregon] [L:97205].
The tenant is called [P:Abdullah Yusuf].
My daughter [P:Chloe] starts school in [L:Lyon] in September.
[P:Rajesh Kumar] owes me money.
[P:Nguyen Thi Hoa] opened the account in [L:Hanoi].
We are looking for a room near [L:Camden Town].
my wife [P:sarah jenkins] has the same doctor.
[P:Giulia Romano] wrote from [L:Naples] about her refund.
The plumber, [P:Mr. Novak], charges by the hour.
He was born in [L:São Paulo] and never left [L:Brazil].
[P:Isabelle Laurent] asked whether the flat in [L:Marseille] is free.
The car belongs to [P:Peter van Dijk].
Sincerely, [P:Amelia Hughes]
I want to speak to [P:Jordan Blake] about my bill.
[P:Kwame Mensah] flew to [L:Accra] with two bags.
The keys are with [P:Ms. Delgado] on [L:Sunset Boulevard].
[P:Emre Yılmaz] drives from [L:Ankara] to [L:Izmir] every week.
Reply to [P:Oleksandr Shevchenko] in [L:Kyiv], please.
Did [P:Bob] say when he comes?
[P:Zoë Clarke] is allergic to nuts.
The school in [L:Reykjavik] hired [P:Jón Einarsson].
Her full name is [P:Catherine Anne Walsh].
Transfer it to [P:Samuel Adeyemi], account below.
They found [P:Hiroshi Sato]'s wallet in [L:Osaka].
[P:Linda] and [P:Greg Morrison] got divorced in [L:Nevada].
My address is [L:1450 Maple Avenue], [L:Apt 3B], [L:Denver], [L:CO] [L:80202].
I work with [P:Noor Al-Sayed] in [L:Dubai].
[P:Pierre Dubois] n'habite plus à [L:Lille].
Frau [P:Sabine Vogel] wohnt jetzt in [L:Leipzig].
The nurse wrote down [P:Mbali Dlamini] and a number.
A man named [P:Victor Ivanov] keeps calling.
Pick up [P:Ella] at the station in [L:Geneva].
[P:George Papadopoulos] runs a bakery in [L:Athens].
Whose desk is this, [P:Ana]'s or [P:Luis]'s?
The contract names [P:Robert J. Hale] as the buyer.
We stayed in [L:Queenstown], [L:New Zealand].
[P:Mei-Ling Chen] cannot come, her train from [L:Taipei] is late.
Escalate to [P:Brandon Lee] if nobody answers.
[P:Aisha] told me that [P:Daniel Cohen] lives on [L:King Street].
"""
WITHOUT = """
The meeting may be moved to April or May.
Will you mark the page before you close the book?
The turkey needs three hours in the oven.
I bought a pair of running shoes and a jar of honey.
Our server returned status 503 at midnight.
The robin built its nest under the roof.
Please reset my password; the link has expired.
She will bill the client on Monday.
Summer was hot, autumn was wet.
Java and Python are programming languages.
The fine china stays in the cupboard.
def parse(line): return line.split(",")
Microsoft released an update on Tuesday.
Add two cups of flour and stir.
The jasmine and the rose are in bloom.
Grace is a virtue that costs nothing.
The invoice total is 1,240.50 euros.
How do I cancel my subscription?
A penny saved is a penny earned.
Faith and hope carried them through the winter.
The committee rejected the proposal twice.
Turn left at the traffic lights, then go straight on.
My order has not arrived after ten days.
The hawk circled over the field.
SELECT name FROM users WHERE id = 7;
Could you explain how photosynthesis works?
Dawn broke over the quiet hills.
The new iPhone has a better camera.
He was frank about the costs.
Version 3.2.1 fixes a memory leak.
The judge ruled against the company.
We need more chairs for the hall.
Art and music are taught on Fridays.
The bank opens at nine.
The doctor said that rest would help.
Two litres of milk and a loaf of bread, please.
The teacher praised the whole class.
Is there a discount for students?
The river froze and the market closed.
Amber is fossil resin, and ruby is a stone.
The printer on the second floor is jammed.
I do not understand the third question.
Compile with optimisation turned on.
A hunter has to be patient.
The cat slept on the warm keyboard.
Netflix raised its prices again.
The battery lasts about eleven hours.
Write a poem about the sea at night.
The chase ended at the harbour.
The error occurs in line 42 of main.rs.
Christmas falls on a Thursday this year.
The drummer broke a stick in the second song.
Dear customer, your parcel is on its way.
The chancellor and the minister disagreed.
Lily pads covered the pond.
What is the square root of 144?
The plan covers dental care and glasses.
The engineers tested the bridge for a week.
Let me know if the colours look right.
Kind regards from the whole team.
"""
TITLED = """
The keys are with Ms. [P:Delgado] on Sunset Boulevard.
Where does Dr. [P:Anna Kowalska] live?
Please ask Mr. [P:Okafor] to call back.
I spoke to Prof. [P:Tanaka] yesterday.
Mrs. [P:Whitfield] has paid her bill.
The house belongs to J. [P:Thompson] and his wife.
We sent it to Robert J. [P:Hale] last week.
Rev. [P:Johansson] will marry them.
My boss is Capt. [P:Miller].
The letter is for Lt. [P:Brandon Lee].
Send the refund to Sr. [P:Mendes], please.
It was signed by Hon. [P:Catherine Walsh].
My dentist is dr. [P:Elena Petrova].
Gen. [P:Morrison] retired in May.
Call Sgt. [P:Daniel Cohen] if it happens again.
The tenant of no. 5 is Ms. [P:Aisha Rahman].
Frau Dr. [P:Sabine Vogel] kommt morgen.
Bitte rufen Sie Hr. [P:Weber] an.
Der Vertrag wurde von Prof. Dr. [P:Müller] unterschrieben.
Die Rechnung geht an Fam. [P:Schneider] in Köln.
Sie heißt Anna Vogel, geb. [P:Krause].
Das Paket ist für Fr. [P:Hoffmann].
Ich habe mit Dipl.-Ing. [P:Peter Lange] gesprochen.
Am 3. Mai kommt Hr. [P:Becker] zu uns.
J'ai parlé avec M. [P:Dupont] hier.
Le dossier de Mme. [P:Laurent] est prêt.
Veuillez appeler Mlle. [P:Isabelle Petit].
Le docteur est le Dr. [P:Moreau].
La facture est pour M. [P:Pierre Dubois].
C'est signé par Mgr. [P:Rousseau].
El Sr. [P:García] no contesta.
La Sra. [P:López] vive en Madrid.
Mi médico es el Dr. [P:Carlos Mendoza].
Envíe el paquete a la Srta. [P:Ana Torres].
El contrato es de D. [P:Miguel Torres].
La Dra. [P:Fernández] llega a las tres.
Pregunte por el Lic. [P:Rodríguez].
Escriba a Dña. [P:María Ruiz], por favor.
"""


def read(line):
    """The sentence, and its spans by kind in characters."""
    text, spans = "", []
    for piece in re.split(r"(\[[PL]:[^\]]*\])", line):
        if piece.startswith(("[P:", "[L:")):
            spans.append((KINDS[piece[1]], len(text), len(text) + len(piece) - 4))
            piece = piece[3:-1]
        text += piece
    return text, spans


def post(body):
    request = urllib.request.Request(f"{URL}/v1/pii/analyze", json.dumps(body | {"ner_model": MODEL}).encode(), {
        "authorization": f"Bearer {KEY}", "content-type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=300))


def share(k, n):
    """k of n, with Wilson's interval."""
    if n == 0:
        return "none"
    z, p = 1.96, k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return f"{p:.3f} [{(middle - half) / (1 + z * z / n):.3f}, {(middle + half) / (1 + z * z / n):.3f}] ({k} of {n})"


rows = [read(line) for part in (WITH, WITHOUT) for line in part.strip().splitlines()]


def ask(text):
    found = post({"text": text, "entities": list(KINDS.values()), "score_threshold": THRESHOLD})
    return [(f["entity_type"], f["start"], f["end"]) for f in found]


found_in = [ask(text) for text, _ in rows]
overlaps = lambda a, b: a[0] == b[0] and a[1] < b[2] and b[1] < a[2]
wrong = []
for kind in KINDS.values():
    n = n_found = n_whole = n_said = n_right = 0
    for (text, true), found in zip(rows, found_in):
        true, found = ([span for span in spans if span[0] == kind] for spans in (true, found))
        n, n_said = n + len(true), n_said + len(found)
        n_found += sum(any(overlaps(t, f) for f in found) for t in true)
        n_whole += sum(t in found for t in true)
        n_right += sum(any(overlaps(t, f) for t in true) for f in found)
        wrong += [f"missed {kind} {text[t[1]:t[2]]!r} in {text!r}" for t in true if not any(overlaps(t, f) for f in found)]
        wrong += [f"not {kind} {text[f[1]:f[2]]!r} in {text!r}" for f in found if not any(overlaps(t, f) for t in true)]
    print(f"{kind}: recall {share(n_found, n)}, whole {share(n_whole, n)}, precision {share(n_right, n_said)}")
quiet = sum(not found for found in found_in[60:])
print(f"sentences without: nothing found in {share(quiet, len(found_in) - 60)}")
any_kind = sum(any(t[1] < f[2] and f[1] < t[2] for f in found) for (_, true), found in zip(rows, found_in) for t in true)
print(f"names and places found as either: {share(any_kind, sum(len(true) for _, true in rows))}")
titled = [(text, span, ask(text)) for text, spans in map(read, TITLED.strip().splitlines()) for span in spans]
lost = [f"missed PERSON {text[t[1]:t[2]]!r} in {text!r}" for text, t, found in titled if not any(overlaps(t, f) for f in found)]
print(f"persons behind titles and initials: {share(len(titled) - len(lost), len(titled))}")
print("\n".join(wrong + lost))
long = " ".join(text for text, _ in rows)
times = []
for i in range(20):
    began = time.perf_counter()
    post({"text": long[i * 37 : i * 37 + 1000], "score_threshold": THRESHOLD})
    times.append(1000 * (time.perf_counter() - began))
print(f"1,000 characters: {statistics.median(times):.1f} ms, the median of 20 ({min(times):.1f} to {max(times):.1f})")
