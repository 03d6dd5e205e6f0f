"""What surrounds a situation: details, signs of how urgent it is, openings; and what fills a slot. No logic."""

from __future__ import annotations

SLOTS = {
    "team": "accounting|marketing|logistics|legal|sales|design|research|purchasing|finance|warehouse|quality|training|export|"
    "planning|maintenance|reception|payroll|editorial|procurement|customer care|engineering|field service|compliance|product",
    "city": "Lisbon|Oslo|Turin|Leeds|Lyon|Porto|Gdansk|Bremen|Ghent|Malmo|Graz|Cork|Bilbao|Utrecht|Tampere|Basel|Brno|Split|"
    "Toronto|Denver|Austin|Nairobi|Pune|Osaka|Perth|Quito|Accra|Hanoi|Lima|Tunis|Aarhus|Riga",
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "month": "January|February|March|April|May|June|July|August|September|October|November|December",
    "item": "coffee machine|desk lamp|winter jacket|running shoe|backpack|vacuum cleaner|office chair|water filter|speaker|"
    "wall clock|kettle|tent|camera bag|power bank|smart watch|air purifier|mixer|suitcase|garden hose|bookshelf|toaster|drill",
    "nth": "second|third|fourth|fifth|sixth|seventh",
}
CODES = (
    "error {d4}",
    "E-{d4}",
    "code {d3}",
    "error 0x{h4}",
    "HTTP 50{d1}",
    "fault F{d3}",
    "status {d3}",
    "message ID {d5}",
)

# What may follow something broken, in the technical queues and in the others, and what may follow a wish.
BROKEN_DETAILS = """
We restarted everything {n} times without any effect.
It began on {day} around {time}.
Clearing the cache and another browser changed nothing.
The log shows {code} right before it happens.
Colleagues in {city} see exactly the same.
It only affects accounts created after {month}.
Version {version} was installed shortly before.
I have attached a screenshot taken at {time}.
We already went through the steps of the help page.
Nothing was changed on our side, as far as we know.
It worked without trouble until {day}.
A colleague from {team} tried it on another machine with the same result.
The message on the screen reads {code}.
We suspect the change made on {day} evening.
Rolling back to {version} did not help.
An older device in {city} shows no such thing.
Support told us in {month} that it had been cured.
Switching from cable to wireless makes no difference.
I reinstalled it on {day}, in vain.
The first person to notice was someone in {team}.
There was a short power cut in {city} at {time}.
Our own tests point to the update of {month}.
We checked cables, settings and permissions.
It happens with {n} different users.
The reference in your system is {d6}.
Before that we saw a warning that mentioned {code}.
The same steps went well on {day}.
Two of our {n} sites are spared.
Everything else in the office in {city} runs as usual.
We have kept the files of {day} in case you need them.
It looks like a conflict with the tool used in {team}.
After about {n} minutes the same message comes up.
The hotline gave me the number {d6} at {time}.
We waited {n} hours before writing this.
Our provider in {city} found no fault on the line.
I followed the advice in your last letter of {month}.
The details were written down by the night shift of {team}.
A test with a fresh profile ended with {code}.
It may have to do with the settings from {month}.
The person who set it up left in {month}.
We compared it with the setup in {city}, they are identical.
Only entries made after {time} seem to be touched.
I noticed it while preparing the figures for {month}.
Turning it off for {n} minutes did nothing.
The item in question has the number {d6}.
Someone from {team} was on the phone with you on {day}.
It shows on both screens and on paper.
We did a full check on {day} and found nothing odd.
The storm in {city} may have played a part.
I have tried it from home and from {city}.
A video of {n} seconds can be sent on request.
My contact in {team} has seen it too.
The automatic check at {time} reported no fault.
Restoring the settings of {day} was no help.
On the phone, {n} steps were tried with me.
It was delivered and set up in {month}.
There is nothing about it in your list of known faults.
It started with the move to {city}.
We see it in about one case out of {n}.
The technician who came on {day} could not explain it.
The counter stands at {d5} since then.
In {month} there was something alike with {code}.
Neither the app nor the website gives more than {code}.
We have written it all down in file {d6}.
It concerns the installation on floor {n}.
The manual mentions {code} but offers no remedy.
I made a note of the time, it was {time}.
Even with a new account it is the same.
As a test we used the connection of {team}.
Your colleague asked me to mention number {d6}.
"""
FAULT_DETAILS = """
I have called {n} times and was never called back.
Your hotline gave me the number {d6} at {time}.
A copy of the letter of {month} is attached.
I have the confirmation of {day} here in front of me.
The agent I talked to on {day} could not explain it.
Photos taken at {time} are attached.
It was agreed with your branch in {city}.
The reference on the letter is {d6}.
My bank has no explanation either.
In {month} everything went as it should.
The amount in question is {amount}.
My colleague in {team} can confirm it.
I followed each of the {n} steps on your page.
I have been a customer in {city} since {month}.
The website only shows {code}.
Somebody from {team} noticed it first.
I wrote on {day} already and got no answer.
The chat told me to wait for {n} days.
Nothing of the kind was said when I ordered.
It began when we moved to {city}.
The account has the number {d6}.
I kept the envelope and the papers of {day}.
The shop in {city} sent me to you.
We are a small firm with {n} people.
The letter is signed by someone in {team}.
I only saw it on {day} by chance.
The form was sent by registered mail from {city}.
Your page still says {amount}.
Another {n} euros were added without a word.
My neighbour received the same letter in {month}.
I was told that a manager in {city} would see to it.
Your last message was dated {day} at {time}.
The driver noted the number {d6}.
I checked with the {team} office before I wrote.
The terms that I signed in {month} say otherwise.
The e-mail quotes case {d6}.
According to the app it was settled on {day}.
We have been through this with {n} of your agents.
The paper trail goes back to {month}.
The person at the counter in {city} noted everything down.
I compared it with the papers of {month}.
I paid {amount} for it.
It was ordered by our {team} team on {day}.
My last contact with you was in {month}.
A witness from {team} was present.
The status has read {code} since {day}.
"""
WANTED_DETAILS = """
We are {n} people in the {team} team.
Our office in {city} has had it since {month}.
I could not find anything on it in the help pages.
It is meant for a project that {team} runs in {city}.
At the moment we have version {version}.
Our customer number is {d6}.
The manager of {team} has approved it.
We spoke about it with your colleague on {day}.
A short description by mail is enough.
I attach the form signed on {day}.
So far we have used a spreadsheet for it.
About {n} users would work with it.
The costs go to {team}.
Please keep the present settings for {city}.
A link to the right page would do.
We have done the same for our site in {city}.
It came up in a meeting with {team}.
The contact on our side sits in {city}.
In {month} we were told that it can be done.
The number of the agreement is {d6}.
We are open to other suggestions as well.
Our budget for it is {amount}.
It should look just like the one in {city}.
Someone from {team} can test it in the evening.
I am best reached after {time}.
We have read the terms dated {month}.
I saw it mentioned in your letter of {month}.
The present value was set in {month}.
Nothing else needs to be touched.
All data may stay where it is.
A colleague in {city} recommended it.
We compared {n} offers before we wrote.
Please send the answer to the {team} team too.
It replaces our wish of {day}.
If there is a fee above {amount}, let me know first.
The list has {n} entries and is attached.
We would test it with {n} people first.
Reference {d6} belongs to it.
Our people in {team} have little experience with it.
For the most part we work from {city}.
The old setting dates from version {version}.
It is part of the move of {team} to {city}.
I tried to do it myself and lacked the rights.
Your form on the website asks for a number that I do not have.
The audit of {month} suggested it.
Until now {team} has taken care of this.
We plan with {n} hours of work on our side.
Both the head of {team} and I agree to it.
A sample was handed to us on {day}.
We have had good experience with your service in {city}.
It concerns entry {d6} in the list.
You did this for us in {month} already.
The names follow in a separate letter.
We need it in English and in one more language.
Most of our {n} branches have it.
There was a note about it in the news of {month}.
I am new in {team} and still learning.
The rest of the contract stays as it is.
We keep a record of such matters under {d6}.
The person who asked for it works in {team}.
Our opening hours in {city} have changed.
A call of {n} minutes would be plenty.
The form of {month} is filled in and attached.
It was left open at the review on {day}.
We pay {amount} a month at present.
Two documents of {n} pages explain the background.
The group in {city} works with it every day.
Once it is done, please tell {team}.
It was suggested by the training in {month}.
The plan for {month} is attached.
"""

CUES = {
    "high": """
This is urgent, {n} people cannot work.
Please treat this with the highest priority.
We lose about {amount} an hour.
It blocks the whole {team} department.
We need an answer within the hour.
Our customers are affected and leaving.
Immediate help is needed.
A presentation to the board starts at {time} today.
This is critical for our business.
Every minute counts for us.
We cannot invoice anyone until this is solved.
Patients are waiting because of it.
Management in {city} asks for a solution today.
Please escalate this at once.
The deadline is tonight.
A contract worth {amount} depends on it.
There is no way around it for us.
The law requires us to act within {n} hours.
Production in {city} is at a standstill.
All {n} branches are concerned.
Please call as soon as you read this.
We face a penalty of {amount}.
It must be settled before {time} today.
Personal data of {n} customers is at risk.
The launch is tomorrow morning.
Our work has come to a complete stop.
It is an emergency.
We have already lost {n} orders over it.
Without it the {team} team has to be sent home.
I need this today, without fail.
""",
    "medium": """
Please look into it in the next few days.
It slows down the {team} team, but work goes on.
An answer this week would be good.
About {n} colleagues are affected, there is a workaround.
We can manage until {day}.
Please deal with it in the normal course.
It costs us some time each day.
Some of our customers have asked about it.
We would be glad of a solution by {day}.
It is a nuisance for {n} of us.
Please let us know by the end of the week.
We help ourselves by hand for the time being.
It matters to us, though nothing has stopped.
We would like it settled before {month}.
One part of the {team} work is delayed by it.
A reply within {n} days would suit us.
We have a detour, but it is tiresome.
It should be done in the coming days.
The {team} team asks about it now and then.
So far we get by with the old way.
It makes our reports less reliable.
Please give it a regular place in your list.
It is moderately important for {city}.
We need it for a meeting next week.
Two or three people wait for it.
It would be useful to have it soon.
I would like to hear from you by {day}.
It is a limited problem, but a real one.
Please reply when you have looked at it.
Our work in {city} goes on with small delays.
""",
    "low": """
There is no hurry.
It is only a small matter.
Whenever you have time is fine.
Nobody is held up by it.
It can wait until {month}.
This is just out of curiosity.
It is a cosmetic matter at most.
No rush, next month is soon enough.
We hardly ever need it.
A minor point, for your information.
It is not important to our daily work.
Only I am concerned, and I can do without.
Please put it at the end of your list.
It would be nice to have one day.
Nothing depends on it.
Take your time with it.
It is a detail that {n} people at most will notice.
We do not expect a quick answer.
I mention it for the sake of completeness.
If it is not done this year, so be it.
It bothers nobody but me.
This has the lowest priority for us.
At your leisure, please.
We have lived with it for {n} months and can go on so.
A line at your convenience is enough.
It is trivial, I know.
""",
}
# These say nothing of urgency: such a ticket's priority cannot be told from its text.
NEUTRAL = """
Please let us know how to proceed.
Thank you for your help.
What do you need from us?
We look forward to your answer.
Kindly tell us the next steps.
Please confirm that you have received this.
Could you have a look at it?
Your advice is welcome.
Please get back to the {team} team.
I hope that you can help.
Who takes care of this?
Please write to us in {city} about it.
We are grateful for any hint.
Please tell us what can be done.
I am happy to answer questions.
Please keep me informed.
Let us know what it takes.
How do we go on from here?
Please tell me whether more details are needed.
We count on your support.
I remain at your disposal after {time}.
Please note it under {d6}.
Could someone from your team in {city} see to it?
I thank you in advance.
"""

OPENINGS = (
    "Hello,", "Hi,", "Good morning,", "Good afternoon,", "Dear support team,", "Hi team,", "Hello everyone,", "To the service desk:",
    "Dear all,", "Hi there,", "Good day,", "Greetings,",
)  # fmt: skip
