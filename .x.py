import sys, time, dataclasses; sys.path.insert(0,'benchmarks')
import torch, numpy as np, chainrule
from rare import *
from graphs import Graphed
from chainrule.methods import Langevin
dev=sys.argv[1]; N=int(sys.argv[3]); budgets=[int(v) for v in sys.argv[4].split(',')]; until=time.time()+float(sys.argv[5])
torch.set_num_threads(1)
model = chainrule.load(device=dev)
w = OTHER_WISHES[int(sys.argv[2])]
seeds = tuple(range(10000, 10000+N))
plain_model = model
if dev=='cuda': 
    g = Graphed(model.network)
    x=model.noise([0,1]); d0=model.denoiser("a red shape"); 
    model = dataclasses.replace(model, network=g)
    try:
        d1=model.denoiser("a red shape"); t=model.schedule.times(20)[3].item()
        for s in (1.,2.):
            z0=(x*s).clone().requires_grad_(); a=d0(z0,t)[1]; ga,=torch.autograd.grad(a.square().sum(),z0)
            z1=(x*s).clone().requires_grad_(); b=d1(z1,t)[1]; gb,=torch.autograd.grad(b.square().sum(),z1)
            print('graph check', (a-b).abs().max().item(), (ga-gb).abs().max().item())
    except Exception as e:
        print('graphs fail', repr(e)[:300]); model=plain_model
caption=w.scene.caption
def T(): return Task(model, model.denoiser(caption), seeds, w.make_loss(model.device), prompts=(caption,))
def rho(r, fixed='eps', **k): return TFG(like='one-step', rho=r, rho_schedule='constant', normalise='gradient', fixed=fixed, steps=20, **k)
S=lambda **k: TFG(like='strong', steps=20, **k)
def D(**k):
    base=dict(iterations=1, steps=20, mix=None, perturbation=0., crops=0, optimiser=Adam(rate=.02)); return DOODL(**{**base, **k})
b=budgets; half=max(2,(b[-1]//2)//21)
def lang(task, budgets, temperature):
    kept=[]
    for bb in budgets:
        n=max(1,(bb-20)//62)
        *_, last=Langevin(iterations=n, steps=20, temperature=temperature).run(task); kept.append(decode(task,last.best_latents))
    im=torch.cat(kept).cpu(); return Result(im,im,im)
WAYS=[
 ('plain', best_of, dict(steps=20)),
 ('strong .1x2', best_guided, dict(guide=S())),
 ('exact adam.02', optimise, dict(method=D())),
 ('rho.1', best_guided, dict(guide=rho(.1))),
 ('explore .5 .3', explore, dict(steps=20, share=.5, reach=.3)),
 ('hybrid strong', spend, dict(method=Hybrid(steps=20))),
 ('rho.3', best_guided, dict(guide=rho(.3))),
 ('mu.1x1', best_guided, dict(guide=S(mu=.1, pushes=1))),
 ('mu.03x1', best_guided, dict(guide=S(mu=.03, pushes=1))),
 ('rho.03', best_guided, dict(guide=rho(.03))),
 ('half plain, adam.02', optimise, dict(method=D(start_of=half))),
 ('exact adam.05', optimise, dict(method=D(optimiser=Adam(rate=.05)))),
 ('half plain, adam.02 crops4', optimise, dict(method=D(start_of=half, crops=4))),
 ('hybrid mu.03', spend, dict(method=Hybrid(steps=20, mu=.03))),
 ('one-step30', best_guided, dict(guide=TFG(like='one-step', rho=30., steps=20))),
 ('explore .25 .15', explore, dict(steps=20, share=.25, reach=.15)),
 ('rho.1x', best_guided, dict(guide=rho(.1,'x_t'))),
 ('langevin .02', lang, dict(temperature=.02)),
 ('exact mom300', optimise, dict(method=D(optimiser=Momentum(rate=300., clip=None)))),
 ('half plain, adam.1', optimise, dict(method=D(start_of=half, optimiser=Adam(rate=.1)))),
 ('exact adam.02 spectrum', optimise, dict(method=D(whiten=True, reparameterise=True))),
 ('langevin .2', lang, dict(temperature=.2)),
 ('rho.1 noise', best_guided, dict(guide=rho(.1, eta=1.))),
 ('rho.1 x2', best_guided, dict(guide=rho(.1, recurrences=2))),
]
print('#', w.name, caption, budgets, flush=True)
for name, f, kw in WAYS:
    if time.time()>until: print('# out of time', name); break
    t0=time.time()
    try:
        task=T(); r=f(task, [x for x in budgets], **kw); sec=time.time()-t0
        k=len(r.images)//N; parts=r.images.to(dev).chunk(k); 
        ok=[round(float(w.judge(x.cpu()).mean()),3) for x in parts]; L=[round(task.loss(x).mean().item(),4) for x in parts]
        iou=[round(float(measure_overlap(x, w.picture).mean()),3) for x in parts] if w.kind in('silhouette','look') else ''
        print(f'{w.name} | {name} | {ok} | {L} | {iou} | {sec:.1f}s', flush=True)
    except Exception as e:
        print(name, 'FAILED', repr(e)[:300], flush=True)
